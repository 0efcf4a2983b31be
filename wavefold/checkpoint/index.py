"""Places of the tensors of a checkpoint folder, from the files' headers alone.

    [8 bytes: length of the header] [header: JSON, name -> dtype, shape, offsets] [data]          the safetensors format

A folder holds `config.json` and `model.safetensors.index.json` with its shards, or `model.safetensors`, or else any
`*.safetensors` files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
WHOLE_NAME = "model.safetensors"
LARGEST_HEADER = 1 << 30
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16,
    "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4,
}  # fmt: skip
"""Bits of a value, by the format's dtypes."""
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class TensorRef(NamedTuple):
    """The place of a tensor, known without reading it."""

    path: Path
    offset: int
    """Place of the first byte in the file."""
    nbytes: int
    dtype: str
    """The name that safetensors gives the dtype, or GGUF the type of its blocks."""
    shape: tuple[int, ...]


def tensor_refs(path: Path) -> dict[str, TensorRef]:
    """The tensors of one file by name.

    Raises ValueError for a header that cannot be read, has dtypes or sizes that the format has not, or whose tensors do
    not tile the file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            entries: dict[str, Any] = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        refs = _refs(path, 8 + length, entries)
        _check_tiling(refs, 8 + length, size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    return refs


def _refs(path: Path, start: int, entries: dict[str, Any]) -> dict[str, TensorRef]:
    """A header's entries. Few kinds of tensors stand for many: each kind's shape is checked once, and is one object."""
    kinds: dict[tuple[str, tuple[int, ...]], tuple[int, tuple[int, ...]]] = {}
    refs = {}
    for name, entry in entries.items():
        dtype, (begin, end) = entry["dtype"], entry["data_offsets"]
        kind = dtype, tuple(entry["shape"])
        if (known := kinds.get(kind)) is None:
            known = kinds[kind] = _num_bytes(*kind), kind[1]
        nbytes, shape = known
        if end - begin != nbytes:
            raise ValueError(f"{name} has {end - begin:,} bytes; {list(shape)} {dtype} takes {nbytes:,}")
        refs[name] = TensorRef(path, start + begin, nbytes, dtype, shape)
    return refs


def _num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in DTYPE_BITS:
        raise ValueError(f"dtype {dtype!r}; expected one of {', '.join(DTYPE_BITS)}")
    if any(type(count) is not int or count < 0 for count in shape):
        raise ValueError(f"shape {list(shape)}; expected whole numbers from 0")
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def _check_tiling(refs: dict[str, TensorRef], start: int, size: int) -> None:
    """Raises ValueError unless the tensors fill a file of `size` bytes from `start` on, without gaps or overlaps."""
    begins = np.array([ref.offset for ref in refs.values()] or [start])
    ends = begins + np.array([ref.nbytes for ref in refs.values()] or [0])
    if begins.dtype.kind != "i":
        raise ValueError("offsets that are no whole numbers")
    begins.sort()
    ends.sort()
    if ends[-1] != size:
        raise ValueError(f"{ends[-1]:,} bytes by its header, {size:,} bytes in fact")
    if begins[0] != start or (begins[1:] != ends[:-1]).any():
        raise ValueError("tensors that overlap, or leave gaps")


def shard_paths(folder: Path, partly: bool = False) -> list[Path]:
    """The files of a checkpoint folder, in order. `partly`: missing files are left out.

    Raises ValueError if there is no folder or no file, if the index cannot be read, or if one of its files is missing.
    """
    return paths_and_index(folder, partly)[0]


def paths_and_index(folder: Path, partly: bool = False) -> tuple[list[Path], dict[str, str] | None]:
    """The results of `shard_paths` and of `read_index`. The index is read once."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a checkpoint with config.json and safetensors files")
    index = read_index(folder)
    if index is None:
        whole = folder / WHOLE_NAME
        paths = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
        if not paths and not partly:
            others = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_WEIGHTS)
            found = f" ({', '.join(others)} cannot be used: only safetensors files are read)" if others else ""
            raise ValueError(f"{folder}: holds no *.safetensors file{found}")
        return paths, None
    names = sorted(set(index.values()))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{folder / INDEX_NAME}: names the file {name!r}; expected plain names in the same folder")
        if not partly and not (folder / name).is_file():
            raise ValueError(f"{folder}: the file {name} of {INDEX_NAME} is missing")
    return [folder / name for name in names if (folder / name).is_file()], index


def read_index(folder: Path) -> dict[str, str] | None:
    """The file of each tensor by the folder's index; None where it has none. Raises ValueError for a damaged one."""
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in weight_map.items()):
            raise TypeError("weight_map is not an object of strings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a safetensors index ({error!r}); expected an object with a weight_map") from None
    return weight_map
