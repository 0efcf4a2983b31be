"""A model as a folder in the official layout: one shard for the embedding, each layer, the head, and the MTP module.

Packed tensors are written byte for byte. Saving never rounds: where routed experts are asked for in another format,
each value must be the same there, or the whole save is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wavefold import quant
from wavefold.checkpoint.files import INDEX_NAME
from wavefold.config import EXPERT_DTYPES, ModelConfig
from wavefold.model import Transformer
from wavefold.model.moe import Expert
from wavefold.model.parameters import Linear

KEPT_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def save(model: Transformer, path: str | Path, experts: str | None = None) -> None:
    """Write `model` to the folder `path`, which appears whole or not at all; an older one there is replaced.

    `experts` is the format of the routed experts: "fp4", "fp8" or "bf16" (None: as they are). Raises ValueError when a
    weight cannot take that format without changing (FP8 needs scales within 2^14 of each other in a 128x128 block).
    """
    if experts is not None and experts not in EXPERT_DTYPES:
        raise ValueError(f"experts = {experts!r} is not allowed; expected {', '.join(EXPERT_DTYPES)}")
    config = model.config if experts is None else model.config.replace(expert_dtype=experts)
    routed = {name for name, module in model.named_modules() if isinstance(module, Expert) and ".experts." in name}

    def shard_tensors(names: list[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name in names:
            owner = name.rpartition(".")[0]
            if experts is None or owner.rpartition(".")[0] not in routed:
                tensors[name] = model.get_parameter(name).detach().cpu()
            elif name.endswith(".weight"):
                module: Linear = model.get_submodule(owner)  # type: ignore[assignment]
                scale = None if module.scale is None else module.scale.detach().cpu()
                tensors[name], new_scale = convert(name, module.weight.detach().cpu(), scale, experts)
                if new_scale is not None:
                    tensors[f"{owner}.scale"] = new_scale
        return tensors

    def fill(folder: Path) -> None:
        shards = shard_names([name for name, _ in model.named_parameters()], config)
        write_shards(folder, config, ((names, shard_tensors) for names in shards))
        for name in KEPT_FILES:
            if model.path is not None and (model.path / name).is_file():
                shutil.copyfile(model.path / name, folder / name)

    write_folder(Path(path), fill)


def convert(name: str, weight: Tensor, scale: Tensor | None, form: str) -> tuple[Tensor, Tensor | None]:
    """A weight in another format with every value unchanged. Raises ValueError, naming the weight, where it is not."""
    stored = {torch.int8: "fp4", torch.float8_e4m3fn: "fp8", torch.bfloat16: "bf16", torch.float32: "fp32"}[
        weight.dtype
    ]
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


def shard_names(names: list[str], config: ModelConfig) -> list[list[str]]:
    """The tensor names of each shard, in the official order: embedding, layers, head, MTP."""
    num_layers = config.num_hidden_layers
    shards: list[list[str]] = [[] for _ in range(num_layers + 2 + (config.num_nextn_predict_layers > 0))]
    for name in names:
        parts = name.split(".")
        place = {"embed": 0, "layers": 1, "mtp": num_layers + 2}.get(parts[0], num_layers + 1)
        shards[place + int(parts[1]) if parts[0] == "layers" else place].append(name)
    return shards


def write_shards(
    folder: Path,
    config: ModelConfig,
    shards: Iterator[tuple[list[str], Callable[[list[str]], dict[str, Tensor]]]],
) -> None:
    """Write config.json, one file for each shard (made when its turn comes), and the index."""
    weight_map: dict[str, str] = {}
    total = 0
    num_shards = config.num_hidden_layers + 2 + (config.num_nextn_predict_layers > 0)
    for number, (names, make) in enumerate(shards, 1):
        file_name = f"model-{number:05d}-of-{num_shards:05d}.safetensors"
        tensors = {name: tensor.contiguous() for name, tensor in make(names).items()}
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file_name)
        total += sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` by `fill(a new folder beside it)`, private, in one step; replaces an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))  # mode 0700
    try:
        fill(fresh)
        for file in fresh.iterdir():
            file.chmod(0o600)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            fresh.rename(path)
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
