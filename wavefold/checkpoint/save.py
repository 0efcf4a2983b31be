"""A model as a folder in the official layout. Packed tensors are written byte for byte.

Saving never rounds: where routed experts are asked for in another format, each value must be the same there, or the
whole save is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from wavefold import quant
from wavefold.checkpoint.write import Entry, write_checkpoint
from wavefold.config import EXPERT_DTYPES, ModelConfig
from wavefold.model import Transformer
from wavefold.model.moe import Expert
from wavefold.model.parameters import Linear, stored_shapes

KEPT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def save(model: Transformer, path: str | Path, experts: str | None = None) -> None:
    """Write `model` to the folder `path`, which appears whole or not at all; an older checkpoint there is replaced.

    `experts` is the format of the routed experts: "fp4", "fp8" or "bf16" (None: as they are). Raises ValueError when a
    weight cannot take that format without changing (FP8 needs scales within 2^14 of each other in a 128x128 block).
    """
    if experts is not None and experts not in EXPERT_DTYPES:
        raise ValueError(f"experts = {experts!r} is not allowed; expected {', '.join(EXPERT_DTYPES)}")

    def keep_files(folder: Path) -> None:
        for name in KEPT_FILES:
            if model.path is not None and (model.path / name).is_file():
                shutil.copyfile(model.path / name, folder / name)

    write_checkpoint(Path(path), _config(model, experts), dict(_entries(model, experts)), finish=keep_files)


def _config(model: Transformer, experts: str | None) -> ModelConfig:
    """The model's configuration with the format that its routed experts are written in."""
    first: Linear = model.get_submodule("layers.0.ffn.experts.0.w1")  # type: ignore[assignment]
    form = experts or quant.FORMS[first.weight.dtype]
    return model.config.replace(expert_dtype=form) if form in EXPERT_DTYPES else model.config


def _entries(model: Transformer, experts: str | None) -> Iterator[tuple[str, Entry]]:
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, Linear) and experts is not None and _is_routed(model, prefix):
            yield from _converted(dot, module, experts)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            yield dot + name, Entry(tuple(parameter.shape), parameter.dtype, parameter.detach().cpu)


def _is_routed(model: Transformer, prefix: str) -> bool:
    owner = prefix.rpartition(".")[0]
    return ".experts." in owner and isinstance(model.get_submodule(owner), Expert)


def _converted(dot: str, module: Linear, form: str) -> Iterator[tuple[str, Entry]]:
    """The entries of a weight in another format. Scale and weight are written one after the other: converted once."""
    parts: dict[str, Tensor | None] = {}

    def take(name: str) -> Tensor:
        if name not in parts:
            scale = None if module.scale is None else module.scale.detach().cpu()
            parts["weight"], parts["scale"] = convert(f"{dot}weight", module.weight.detach().cpu(), scale, form)
        part = parts.pop(name)
        assert part is not None
        return part

    shape, dtype, scale_shape = stored_shapes(module.in_features, module.out_features, form)
    yield f"{dot}weight", Entry(shape, dtype, lambda: take("weight"))
    if scale_shape is not None:
        yield f"{dot}scale", Entry(scale_shape, torch.float8_e8m0fnu, lambda: take("scale"))


def convert(name: str, weight: Tensor, scale: Tensor | None, form: str) -> tuple[Tensor, Tensor | None]:
    """A weight in another format with every value unchanged. Raises ValueError, naming the weight, where it is not."""
    stored = quant.FORMS[weight.dtype]
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
            f"{name}: its {stored} values are not all {form} values; quantise the model first, or keep {stored}"
        )
    return new
