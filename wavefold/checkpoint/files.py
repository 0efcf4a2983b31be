"""Tensors of a checkpoint folder, as memory maps. Only safetensors is read: nothing in a checkpoint is ever executed.

A folder holds `config.json` and `model.safetensors.index.json` with its shards, or `model.safetensors`, or else any
`*.safetensors` files.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX_NAME = "model.safetensors.index.json"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder by name, backed by the mapped files: pages are read when they are used.

    Raises ValueError, naming the file, for what is missing, truncated, corrupt, listed twice or no safetensors at all.
    """
    tensors: dict[str, Tensor] = {}
    index = _read_index(folder)
    for path in _shards(folder, index):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118  safe_open is no mapping
                    if name in tensors:
                        raise ValueError(f"{path}: tensor {name} is in another file of {folder} too; expected once")
                    tensors[name] = shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    lost = sorted(set(index or ()) - set(tensors))
    if lost:
        raise ValueError(
            f"{folder / INDEX_NAME}: lists {len(lost)} tensors that its files do not hold, {lost[0]} first"
        )
    return tensors


def _read_index(folder: Path) -> dict[str, str] | None:
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in weight_map.items()):
            raise TypeError("weight_map is not an object of strings")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
