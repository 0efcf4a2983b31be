"""A model as a folder in the official layout. Packed tensors are written byte for byte.

Saving never rounds. If another format is asked for routed experts, each value must be the same in it, or the whole
save is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavefold import quant
from wavefold.checkpoint.side_files import copy_side_files
from wavefold.checkpoint.write import Entry, write_checkpoint
from wavefold.config import EXPERT_DTYPES
from wavefold.config.keys import QUANTIZATION_CONFIG
from wavefold.model import Transformer
from wavefold.model.official import MATRIX, ExpertMatrix, Matrix, official_owners, own_tensors
from wavefold.model.transformer import Embedding


def save(
    model: Transformer, path: str | Path, experts: str | None = None,
    add_files: Callable[[Path], None] = lambda folder: None,
) -> None:  # fmt: skip
    """Write `model` to the folder `path`, which appears whole or not at all; an older checkpoint there is replaced.

    `experts` is the format of the routed experts: "fp4", "fp8" or "bf16" (None: as they are). All else in the
    model's original checkpoint is kept: keys of its config.json, tensors that the text model does not need, tokenizer,
    templates, encoders, licences. `add_files(folder)` may add files before the folder appears. Raises
    ValueError when a weight cannot take that format without changing
    (FP8 needs scales within 2^14 of each other in a 128x128 block).
    """
    if experts is not None and experts not in EXPERT_DTYPES:
        raise ValueError(f"experts = {experts!r} is not allowed; expected {', '.join(EXPERT_DTYPES)}")
    check_formats(model)
    origin = model.origin

    def finish(folder: Path) -> None:
        if origin is not None:
            copy_side_files(origin.folder, folder)
        add_files(folder)

    values = config_values(model, experts)
    write_checkpoint(Path(path), model.config, dict(_entries(model, experts)), finish=finish, values=values)


def check_formats(model: Transformer) -> None:
    """Raises ValueError for a matrix in a format that the official layout lacks, as a GGUF file's have."""
    for name, owner in official_owners(model):
        if isinstance(owner, (*MATRIX, Embedding)) and (owner.packed or owner.weight.dtype == torch.float16):
            stored = owner.stored.format.name
            raise ValueError(f"{name} is in {stored}, which is not written; expected fp4, fp8, bf16 or fp32 alone")


def config_values(model: Transformer, experts: str | None = None) -> dict[str, Any]:
    """The keys of `config.json` for the model as it is written, its routed experts in `experts` (None: as they are)."""
    forms = {matrix_form(owner, experts if isinstance(owner, ExpertMatrix) else None)
             for _, owner in official_owners(model) if isinstance(owner, MATRIX)}  # fmt: skip
    routed = experts or model.experts.store.table.format(0, 0, 0).name
    return values_for(model, forms, routed, experts is not None, model.embed.weight.dtype)


def values_for(
    model: Transformer, forms: Collection[str], routed: str, is_named: bool, dtype: torch.dtype
) -> dict[str, Any]:  # fmt: skip
    """The keys of `config.json` for matrices in `forms`: those of the model's origin, changed where they do not fit.

    quantization_config is there where matrices are quantized; torch_dtype is `dtype`, the embedding's. expert_dtype is
    `routed`, the routed experts' format; where they are not quantized and nobody named it, it stays as it was, since
    readers differ about it.
    """
    origin = model.origin
    values = model.config.written_over(origin.config) if origin is not None else model.config.to_dict()
    quantization = dict(values.pop("quantization_config", None) or QUANTIZATION_CONFIG)
    if any(quant.FORMATS[form].is_quantized for form in forms):
        values["quantization_config"] = quantization
        if is_named or quant.FORMATS[routed].is_quantized:
            values["expert_dtype"] = routed
            quantization |= {"expert_dtype": routed} if "expert_dtype" in quantization else {}
    elif origin is None:
        del values["expert_dtype"]
    key = "dtype" if "dtype" in values and "torch_dtype" not in values else "torch_dtype"
    return values | {key: str(dtype).removeprefix("torch.")}


def matrix_form(matrix: Matrix, experts: str | None) -> str:
    """The format that a matrix is written in: `experts` where it is given, else its own."""
    return experts or quant.format_of(matrix.weight.dtype).name


def _entries(model: Transformer, experts: str | None) -> Iterator[tuple[str, Entry]]:
    for prefix, owner in official_owners(model):
        dot = f"{prefix}." if prefix else ""
        if isinstance(owner, ExpertMatrix) and experts is not None:
            yield from _converted(dot, owner, experts)
            continue
        for name, tensor in own_tensors(owner).items():
            yield dot + name, Entry(tuple(tensor.shape), tensor.dtype, tensor.detach().cpu)
    left_out = model.origin.left_out if model.origin is not None else {}
    for name, tensor in left_out.items():
        yield name, Entry(tuple(tensor.shape), tensor.dtype, tensor.detach)


def _converted(dot: str, matrix: ExpertMatrix, form: str) -> Iterator[tuple[str, Entry]]:
    """The entries of a weight in another format."""

    def make() -> tuple[Tensor, Tensor | None]:
        scale = None if matrix.scale is None else matrix.scale.detach().cpu()
        return convert(f"{dot}weight", matrix.weight.detach().cpu(), scale, form)

    return entries_in(form, dot, (matrix.out_features, matrix.in_features), make)


def entries_in(
    form: str, dot: str, size: tuple[int, int], make: Callable[[], tuple[Tensor, Tensor | None]]
) -> Iterator[tuple[str, Entry]]:  # fmt: skip
    """The entries of a matrix in the format `form`, which `make` computes: once, as one follows the other."""
    parts: dict[str, Tensor | None] = {}

    def take(name: str) -> Tensor:
        if name not in parts:
            parts["weight"], parts["scale"] = make()
        part = parts.pop(name)
        assert part is not None
        return part

    to = quant.FORMATS[form]
    scale_shape = to.scales_shape(*size)
    yield f"{dot}weight", Entry(to.codes_shape(*size), to.dtype, lambda: take("weight"))
    if scale_shape is not None:
        yield f"{dot}scale", Entry(scale_shape, torch.float8_e8m0fnu, lambda: take("scale"))


def convert(name: str, weight: Tensor, scale: Tensor | None, form: str) -> tuple[Tensor, Tensor | None]:
    """A weight in another format with every value unchanged. Raises ValueError if one would change."""
    stored = quant.format_of(weight.dtype).name
    if stored == form:
        return weight, scale
    try:
        if form == "bf16":
            new: tuple[Tensor, Tensor | None] = quant.dequantize(weight, scale, torch.bfloat16), None
        elif stored == "fp4":
            assert scale is not None
            return quant.fp4_to_fp8(weight, scale)
        elif stored == "fp8":
            assert scale is not None
            return quant.fp8_to_fp4(weight, scale)
        else:
            new = quant.quantize_fp4(weight) if form == "fp4" else quant.quantize_fp8(weight)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not torch.equal(quant.dequantize(*new, torch.float32), quant.dequantize(weight, scale, torch.float32)):
        raise ValueError(
            f"{name}: its {stored} values are not all {form} values; quantize the model first, or keep {stored}"
        )
    return new
