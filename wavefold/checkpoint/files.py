"""Tensors of a checkpoint folder, as memory maps. Only safetensors is read: nothing in a checkpoint is executed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wavefold.checkpoint.index import INDEX_NAME, read_index, shard_paths, tensor_refs

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
    for path in shard_paths(folder):
        try:
            for name, tensor in _map(path):
                if name in tensors:
                    raise ValueError(f"{path}: tensor {name} is in another file of {folder} too; expected once")
                tensors[name] = tensor
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    lost = sorted(set(read_index(folder) or ()) - set(tensors))
    if lost:
        raise ValueError(
            f"{folder / INDEX_NAME}: lists {len(lost)} tensors that its files do not hold, {lost[0]} first"
        )
    return tensors


def stored_bytes(folder: Path) -> int:
    """Bytes of the files that `read_tensors` maps."""
    return sum(path.stat().st_size for path in shard_paths(folder))


def _map(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file. safetensors checks the header: names, shapes, and that the offsets tile the file."""
    with safe_open(path, framework="np"):
        pass
    refs = tensor_refs(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, flags=MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    for name, ref in refs.items():
        dtype = DTYPES.get(ref.dtype)
        if dtype is None:
            raise ValueError(f"{path}: {name} has dtype {ref.dtype}; expected one of {', '.join(DTYPES)}")
        if ref.nbytes:
            count = ref.nbytes // dtype.itemsize
            yield name, torch.frombuffer(data, dtype=dtype, count=count, offset=ref.offset).view(ref.shape)
        else:
            yield name, torch.empty(ref.shape, dtype=dtype)
