"""A GGUF file as a folder in the official layout, one tensor in memory at a time.

    routed experts in MXFP4      fp4: the same bits in another order
    other blocks, and float16    bfloat16, to which their values are rounded
    all else                     as it is

The file's vocabulary becomes a tokenizer.json and a tokenizer_config.json, its sampling a generation_config.json.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wavefold.atomic import write_json, write_text
from wavefold.checkpoint.save import entries_in, values_for
from wavefold.checkpoint.side_files import GENERATION_CONFIG
from wavefold.checkpoint.write import Entry, write_checkpoint
from wavefold.gguf import open_parts, sampling_values, tokenizer_texts
from wavefold.model import Transformer
from wavefold.model.official import ExpertMatrix, official_owners, own_tensors
from wavefold.model.parameters import Linear
from wavefold.model.transformer import Embedding
from wavefold.quant import Format, Weight
from wavefold.quant.encode import fp4_of_mxfp4


def unpack(
    model: Transformer, path: Path, on_shard: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, int]:  # fmt: skip
    """Write the model of a GGUF file to the folder `path`, which appears whole or not at all.

    Returns the number of matrices whose values were rounded to bfloat16, by the type they had. Raises ValueError for a
    model of another origin, for an MXFP4 scale that FP4 lacks, and as `write_checkpoint`.
    """
    origin = model.origin
    if origin is None or not origin.folder.is_file():
        raise ValueError("the model does not come from a GGUF file; expected one, or `save`")
    source = origin.folder
    entries: dict[str, Entry] = {}
    rounded: dict[str, int] = {}
    forms: set[str] = set()
    for prefix, owner in official_owners(model):
        dot = f"{prefix}." if prefix else ""
        if not isinstance(owner, Linear | ExpertMatrix | Embedding):
            entries |= {dot + name: _as_it_is(tensor) for name, tensor in own_tensors(owner).items()}
            continue
        stored = owner.stored
        form = _form(stored.format, isinstance(owner, ExpertMatrix))
        forms.add(form)
        if form == "fp4":
            entries |= dict(entries_in(form, dot, stored.shape, functools.partial(_moved, dot, stored)))
        elif stored.format.name == form:
            entries[f"{dot}weight"] = _as_it_is(stored.codes)
        else:
            rounded[stored.format.name] = rounded.get(stored.format.name, 0) + 1
            decode = functools.partial(stored.decode, torch.bfloat16)
            entries[f"{dot}weight"] = Entry(stored.shape, torch.bfloat16, decode)
    routed = "fp4" if "fp4" in forms else "bf16"
    values = values_for(model, forms, routed, is_named=True, dtype=torch.bfloat16)
    write_checkpoint(path, model.config, entries, on_shard, lambda folder: _side_files(source, folder), values)
    return rounded


def _form(stored: Format, is_expert: bool) -> str:
    """Returns the official layout's format for a matrix that a file holds in `stored`."""
    if stored.name == "mxfp4" and is_expert:
        return "fp4"
    return "bf16" if stored.is_packed or stored.name == "f16" else stored.name


def _as_it_is(tensor: Tensor) -> Entry:
    return Entry(tuple(tensor.shape), tensor.dtype, tensor.detach)


def _moved(dot: str, stored: Weight) -> tuple[Tensor, Tensor]:
    """Codes and scales of an expert's MXFP4 matrix."""
    try:
        return fp4_of_mxfp4(stored.codes.detach())
    except ValueError as error:
        raise ValueError(f"{dot}weight: {error}") from None


def _side_files(source: Path, folder: Path) -> None:
    keys = open_parts(source).values
    if sampling := sampling_values(keys):
        write_json(folder / GENERATION_CONFIG, sampling)
    try:
        tokenizer, config = tokenizer_texts(source, keys)
    except ValueError as error:
        warnings.warn(f"{error}; the copy has no tokenizer", stacklevel=2)
        return
    write_text(folder / "tokenizer.json", tokenizer)
    write_text(folder / "tokenizer_config.json", config)
