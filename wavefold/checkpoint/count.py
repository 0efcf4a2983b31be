"""The content of a checkpoint folder's files, from their headers alone: tensors, bytes, names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wavefold.checkpoint.files import present_refs
from wavefold.checkpoint.gguf import FORMS
from wavefold.checkpoint.index import TensorRef
from wavefold.config import ModelConfig
from wavefold.experts import routed_expert
from wavefold.model import Transformer
from wavefold.model.official import official_names

UNSCALED = ("BF16", "F32", "F16", *FORMS)


@dataclass(frozen=True)
class FileCount:
    """Tensors of a folder's files and their bytes, and how their names differ from those of its `config.json`.

    `routed`: bytes of the routed experts of the main layers.
    `extra` are names that the configuration's model does not have, and `extra_bytes` their tensors' size; `missing` are
    names that the files lack.
    """

    tensors: int
    bytes: int
    extra: tuple[str, ...]
    extra_bytes: int
    missing: tuple[str, ...]
    routed: int = 0


def count_files(folder: Path, config: ModelConfig) -> FileCount | None:
    """Count the safetensors files that are in `folder`, or a GGUF file; None where there is none.

    Raises ValueError for a file whose header cannot be read or that is shorter than its header says.
    """
    if not (refs := present_refs(folder)):
        return None
    names = _names(config)
    extra = sorted(set(refs) - names)
    missing = [name for name in sorted(names - set(refs)) if not _needs_no_scale(name, refs)]
    extra_bytes = sum(refs[name].nbytes for name in extra)
    routed = sum(ref.nbytes for name, ref in refs.items() if name.startswith("layers.") and is_routed(name))
    total = sum(ref.nbytes for ref in refs.values())
    return FileCount(len(refs), total, tuple(extra), extra_bytes, tuple(missing), routed)


def is_routed(name: str) -> bool:
    """True for a tensor of a routed expert."""
    return routed_expert(name) is not None


def by_part(names: Iterable[str]) -> dict[str, int]:
    """The number of names in each part of a model."""
    return dict(Counter(map(part_of, names)))


def part_of(name: str) -> str:
    """Returns the part of a model that a tensor is in: "layers.3", "mtp.1", "head"."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] in ("layers", "mtp") else words[0]


def _names(config: ModelConfig) -> set[str]:
    """The tensor names of the configuration's model."""
    return set(official_names(Transformer(config)))


def _needs_no_scale(name: str, refs: Mapping[str, TensorRef]) -> bool:
    """True for the scale of a weight that is stored unquantized."""
    weight = refs.get(name.removesuffix("scale") + "weight") if name.endswith(".scale") else None
    return weight is not None and weight.dtype in UNSCALED
