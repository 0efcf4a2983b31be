"""Tensors of a checkpoint folder, as memory maps. Only safetensors is read: nothing in a checkpoint is ever executed.

A folder holds `config.json` and `model.safetensors.index.json` with its shards, or `model.safetensors`, or else any
`*.safetensors` files.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The format's names of dtypes, as far as a checkpoint may use them."""

# A file may be larger than the memory: none is set aside. Older Pythons lack the name; 0x4000 is Linux on x86 and ARM.
MAP_FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder by name, backed by the mapped files: pages are read when they are used.

    Who writes to one writes to memory of his own, never to the file. Raises ValueError, naming the file, for what is
    missing, truncated, corrupt, listed twice or no safetensors at all.
    """
    tensors: dict[str, Tensor] = {}
    index = _read_index(folder)
    for path in _shards(folder, index):
        try:
            for name, tensor in _map(path):
                if name in tensors:
                    raise ValueError(f"{path}: tensor {name} is in another file of {folder} too; expected once")
                tensors[name] = tensor
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    lost = sorted(set(index or ()) - set(tensors))
    if lost:
        raise ValueError(
            f"{folder / INDEX_NAME}: lists {len(lost)} tensors that its files do not hold, {lost[0]} first"
        )
    return tensors


def stored_bytes(folder: Path) -> int:
    """Bytes of the files that `read_tensors` maps."""
    return sum(path.stat().st_size for path in _shards(folder, _read_index(folder)))


def _map(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file. safetensors checks the header: names, shapes, and that the offsets tile the file."""
    with safe_open(path, framework="np"):
        pass
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        data = mmap.mmap(file.fileno(), 0, flags=MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}; expected one of {', '.join(DTYPES)}")
        begin, end = entry["data_offsets"]
        if begin == end:
            yield name, torch.empty(entry["shape"], dtype=dtype)
        else:
            count = (end - begin) // dtype.itemsize
            yield name, torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin).view(entry["shape"])


def _read_index(folder: Path) -> dict[str, str] | None:
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in weight_map.items()):
            raise TypeError("weight_map is not an object of strings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors index ({error!r}); expected an object with a weight_map") from None
    return weight_map


def _shards(folder: Path, index: dict[str, str] | None) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a checkpoint with config.json and safetensors files")
    if index is None:
        whole = folder / "model.safetensors"
        paths = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
        if not paths:
            others = sorted(
                p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf")
            )
            found = f" ({', '.join(others)} cannot be used: only safetensors files are read)" if others else ""
            raise ValueError(f"{folder}: holds no *.safetensors file{found}")
        return paths
    names = sorted(set(index.values()))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX_NAME}: names the file {name!r}; expected plain names in the same folder")
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: the file {name} of {INDEX_NAME} is missing")
    return [folder / name for name in names]
