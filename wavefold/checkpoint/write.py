"""Writes a checkpoint folder in the official layout, one tensor in memory at a time.

    entries (name, shape, dtype, how to make it) -> shards -> header, then the tensors one by one -> the folder appears

One shard holds the embedding, each layer has its own, and the last two hold the head and the MTP module. The folder is
filled beside its place and moved there whole; until then, an older one stays as it was.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wavefold.atomic import sweep, write_folder, write_json
from wavefold.checkpoint.files import DTYPES
from wavefold.checkpoint.index import CONFIG_NAME, INDEX_NAME
from wavefold.config import ModelConfig

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor to be written. `make` is called once, when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_checkpoint(
    path: Path,
    config: ModelConfig,
    entries: Mapping[str, Entry],
    on_shard: Callable[[int, int], None] = lambda done, of: None,
    finish: Callable[[Path], None] = lambda folder: None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Write `entries` and `config` to the folder `path`.

    `on_shard(done, of)` reports progress; `finish(folder)` may add files before the folder appears; `values` are the
    keys of `config.json` (None: all that `config` has). Raises ValueError when the disk is too small, and unless `path`
    is new, an empty folder or a checkpoint.
    """
    total = sum(entry.num_bytes for entry in entries.values())
    sweep(path)
    check_replaceable(path)
    _check_space(path, total)

    def fill(folder: Path) -> None:
        shards = shard_names(list(entries), config)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, 1):
            on_shard(number - 1, len(shards))
            file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_file(folder / file_name, {name: entries[name] for name in names})
            weight_map |= dict.fromkeys(names, file_name)
        on_shard(len(shards), len(shards))
        write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
        write_json(folder / CONFIG_NAME, config.to_dict() if values is None else values)
        finish(folder)

    write_folder(path, fill)


def shard_names(names: list[str], config: ModelConfig) -> list[list[str]]:
    """The tensor names of each shard, in the official order: embedding, layers, head, MTP."""
    num_layers = config.num_hidden_layers
    has_mtp = any(name.startswith("mtp.") for name in names)
    shards: list[list[str]] = [[] for _ in range(num_layers + 2 + has_mtp)]
    for name in names:
        parts = name.split(".")
        place = {"embed": 0, "mtp": num_layers + 2}.get(parts[0], num_layers + 1)
        if parts[0] == "layers" and parts[1].isdecimal() and int(parts[1]) < num_layers:
            place = 1 + int(parts[1])
        shards[place].append(name)
    return shards


def write_file(path: Path, entries: Mapping[str, Entry]) -> None:
    """One safetensors file: the header, the tensors without gaps."""
    names, header = layout(entries)
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            tensor = entries[name].make()
            assert (tuple(tensor.shape), tensor.dtype) == (entries[name].shape, entries[name].dtype), name
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def layout(entries: Mapping[str, Entry]) -> tuple[list[str], bytes]:
    """The order of a file's tensors, and its header: its length in 8 bytes, JSON padded to 8."""
    names = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))  # wide ones first: all aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        entry = entries[name]
        header[name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape),
                        "data_offsets": [offset, offset + entry.num_bytes]}  # fmt: skip
        offset += entry.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return names, len(text).to_bytes(8, "little") + text


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to one private safetensors file. Raises OSError where the disk is full."""
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {"format": "pt"})
        )
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error})") from None
    path.chmod(0o600)


def check_replaceable(path: Path) -> None:
    """Raises ValueError for a `path` that must not be replaced: a file, or a folder that holds something else."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"{path}: is not a folder; give another name")
    if not any(path.iterdir()):
        return
    for name, found in (
        (CONFIG_NAME, (path / CONFIG_NAME).is_file()),
        ("*.safetensors", any(path.glob("*.safetensors"))),
    ):
        if not found:
            raise ValueError(f"{path}: is no checkpoint (it holds no {name}), so it is not replaced; give another")


def _check_space(path: Path, num_bytes: int) -> None:
    place = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if num_bytes > free:
        raise ValueError(f"{path}: needs {num_bytes / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free in {place}")
