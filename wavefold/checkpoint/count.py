"""What the files of a checkpoint folder hold, from their headers alone: how many tensors, how many bytes, which names.

[8 bytes: length of the header] [header: JSON, name -> dtype, shape, offsets] [data]          the safetensors format
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold.checkpoint.files import INDEX_NAME
from wavefold.config import ModelConfig
from wavefold.model import Transformer
from wavefold.model.expert_store import routed_expert

UNSCALED = ("BF16", "F32", "F16")
LARGEST_HEADER = 1 << 30


@dataclass(frozen=True)
class FileCount:
    """Tensors of a folder's files and their bytes, and how their names differ from those of its `config.json`.

    `extra` are names that the configuration's model does not have, and `extra_bytes` their tensors' size; `missing` are
    names that the files lack.
    """

    tensors: int
    bytes: int
    extra: tuple[str, ...]
    extra_bytes: int
    missing: tuple[str, ...]


def count_files(folder: Path, config: ModelConfig) -> FileCount | None:
    """Count the safetensors files that are in `folder`; None where there is none.

    Raises ValueError for a file whose header cannot be read or that is shorter than its header says.
    """
    paths = _paths(folder)
    if not paths:
        return None
    entries = {name: entry for path in paths for name, entry in _header(path).items()}
    names = _names(config)
    extra = sorted(set(entries) - names)
    missing = [name for name in sorted(names - set(entries)) if not _needs_no_scale(name, entries)]
    sizes = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in entries.items()}
    extra_bytes = sum(sizes[name] for name in extra)
    return FileCount(len(entries), sum(sizes.values()), tuple(extra), extra_bytes, tuple(missing))


def by_part(names: Iterable[str]) -> dict[str, int]:
    """How many names each part of a model has: "layers.3", "mtp.1", "head"."""
    parts = (name.split(".") for name in names)
    return dict(Counter(".".join(words[:2]) if words[0] in ("layers", "mtp") else words[0] for words in parts))


def _paths(folder: Path) -> list[Path]:
    """The files that a load would read, as far as they are there."""
    index, single = folder / INDEX_NAME, folder / "model.safetensors"
    if index.is_file():
        try:
            listed = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index}: not a safetensors index ({error!r}); expected one with a weight_map") from None
        return [folder / name for name in listed if (folder / name).is_file()]
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _header(path: Path) -> dict[str, Any]:
    """The entries of a file's tensors by name."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{8 + length + end:,} bytes by its header, {size:,} bytes in fact")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); download or copy it again") from None
    return entries


def _names(config: ModelConfig) -> set[str]:
    """The tensor names of the configuration's model. One expert of each layer stands for all: a tree of all is slow."""
    single = Transformer(config.replace(n_routed_experts=1, num_experts_per_tok=1))
    names: set[str] = set()
    for name, _ in single.named_parameters():
        if routed_expert(name) is None:
            names.add(name)
        else:
            before, after = name.split(".experts.0.")
            names.update(f"{before}.experts.{expert}.{after}" for expert in range(config.n_routed_experts))
    return names


def _needs_no_scale(name: str, entries: Mapping[str, Any]) -> bool:
    """True for the scale of a weight that is stored unquantized."""
    weight = entries.get(name.removesuffix("scale") + "weight") if name.endswith(".scale") else None
    return weight is not None and weight["dtype"] in UNSCALED
