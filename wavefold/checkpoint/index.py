"""Where the tensors of a checkpoint folder lie, known from the files' headers alone.

    [8 bytes: length of the header] [header: JSON, name -> dtype, shape, offsets] [data]          the safetensors format

A folder holds `config.json` and `model.safetensors.index.json` with its shards, or `model.safetensors`, or else any
`*.safetensors` files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
WHOLE_NAME = "model.safetensors"
LARGEST_HEADER = 1 << 30
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf")


class TensorRef(NamedTuple):
    """Where a tensor lies: known without reading it."""

    path: Path
    offset: int
    """Of its first byte in the file."""
    nbytes: int
    dtype: str
    """By safetensors' name."""
    shape: tuple[int, ...]


def tensor_refs(path: Path) -> dict[str, TensorRef]:
    """The tensors of one file by name. Raises ValueError for a header that cannot be read or does not fit the file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            entries: dict[str, Any] = json.loads(file.read(length))
        start = 8 + length
        refs = {
            name: TensorRef(path, start + begin, end - begin, str(entry["dtype"]), tuple(entry["shape"]))
            for name, entry in entries.items()
            if name != "__metadata__"
            for begin, end in [entry["data_offsets"]]
        }
        end = max((ref.offset + ref.nbytes for ref in refs.values()), default=start)
        if end != size or any(ref.offset < start or ref.nbytes < 0 for ref in refs.values()):
            raise ValueError(f"{end:,} bytes by its header, {size:,} bytes in fact")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    return refs


def shard_paths(folder: Path, partly: bool = False) -> list[Path]:
    """The files of a checkpoint folder, in order. `partly`: those of them that are there.

    Raises ValueError for no folder, no file, an index that cannot be read, and a file of it that is missing.
    """
    return paths_and_index(folder, partly)[0]


def paths_and_index(folder: Path, partly: bool = False) -> tuple[list[Path], dict[str, str] | None]:
    """`shard_paths`, and what `read_index` gives: the index is read once."""
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
