"""Tensors of a checkpoint folder or a GGUF file, as memory maps. Nothing in a checkpoint is executed."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.checkpoint import gguf
from wavefold.checkpoint.index import INDEX_NAME, TensorRef, paths_and_index, shard_paths, tensor_refs
from wavefold.experts.mapped import MappedSpan
from wavefold.gguf import is_gguf, open_parts

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The format's names of dtypes, as far as a checkpoint may use them."""

STORAGE = DTYPES | dict.fromkeys(gguf.FORMS, torch.uint8)
"""Dtypes of tensors by the names in refs: GGUF's blocks are bytes."""

NEAR = 1 << 16
"""Tensors that lie fewer bytes apart share a mapping."""


class StoredTensors(NamedTuple):
    """The tensors and paths of a folder's files, from their headers."""

    refs: dict[str, TensorRef]
    paths: list[Path]
    not_read: Sequence[str] = ()
    """Names in a GGUF file of tensors that the text model does not need."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.paths)


@contextlib.contextmanager
def paused_collections() -> Iterator[None]:
    """A block without garbage collections.

    Headers become hundreds of thousands of objects, none of them in a cycle, and each collection would walk them all.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_refs(folder: Path) -> StoredTensors:
    """All tensors of the folder, or of the GGUF file, by official name: one pass over the files' headers.

    Raises ValueError, naming the file, if it is missing, truncated, corrupt or no safetensors file, and if a tensor is
    listed twice or of a dtype that no checkpoint has.
    """
    if is_gguf(folder):
        return StoredTensors(*gguf.gguf_refs(folder))
    paths, index = paths_and_index(folder)
    refs: dict[str, TensorRef] = {}
    for path in paths:
        found = _checked_refs(path)
        if twice := refs.keys() & found.keys():
            raise ValueError(f"{path}: tensor {min(twice)} is in another file of {folder} too; expected once")
        refs |= found
    lost = sorted(set(index or ()) - refs.keys())
    if lost:
        raise ValueError(
            f"{folder / INDEX_NAME}: lists {len(lost)} tensors that its files do not hold, {lost[0]} first"
        )
    return StoredTensors(refs, paths)


def present_refs(folder: Path) -> dict[str, TensorRef]:
    """All tensors of the safetensors files that lie in a folder, whatever its index lists, or of a GGUF file.

    Raises ValueError for a file whose header cannot be read or that is shorter than its header says.
    """
    if is_gguf(folder):
        return gguf.gguf_refs(folder)[0]
    return {name: ref for path in shard_paths(folder, partly=True) for name, ref in tensor_refs(path).items()}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that lie in a folder, or the parts of a GGUF file."""
    return list(open_parts(folder).paths) if is_gguf(folder) else sorted(folder.glob("*.safetensors"))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder by name, backed by the mapped files: pages are read when they are used.

    A write to a tensor goes to private memory, never to the file. Raises ValueError as `read_refs` does.
    """
    return map_tensors(read_refs(folder).refs)


def map_tensors(refs: Mapping[str, TensorRef], copied: bool = False) -> dict[str, Tensor]:
    """These tensors, memory-mapped, or copied into memory of huge pages.

    Tensors that lie side by side share a mapping.
    """
    tensors: dict[str, Tensor] = {}
    for run in _runs(refs):
        path = run[0][1].path
        try:
            end = max(ref.offset + ref.nbytes for _, ref in run)
            span = MappedSpan(path, run[0][1].offset, end, copied=copied)
        except OSError as error:
            raise ValueError(f"{path}: could not be mapped ({error}); download or copy it again") from None
        tensors |= {name: span.tensor(ref.offset, STORAGE[ref.dtype], ref.shape) for name, ref in run}
    empty = (torch.empty(0, dtype=STORAGE[ref.dtype]).view(ref.shape) for ref in refs.values() if not ref.nbytes)
    tensors |= zip((name for name, ref in refs.items() if not ref.nbytes), empty, strict=True)
    return {name: tensors[name] for name in refs}


def _runs(refs: Mapping[str, TensorRef]) -> list[list[tuple[str, TensorRef]]]:
    """Tensors that lie in one file, at most `NEAR` bytes from each other, in the order of their bytes."""
    runs: list[list[tuple[str, TensorRef]]] = []
    end, path = 0, None
    for name, ref in sorted(refs.items(), key=lambda item: (item[1].path, item[1].offset)):
        if not ref.nbytes:
            continue
        if ref.path != path or ref.offset > end + NEAR:
            runs.append([])
        runs[-1].append((name, ref))
        end, path = ref.offset + ref.nbytes, ref.path
    return runs


def _checked_refs(path: Path) -> dict[str, TensorRef]:
    """The tensors of one file, in dtypes that torch has."""
    refs = tensor_refs(path)
    dtypes = {ref.dtype for ref in refs.values()}
    if not dtypes <= DTYPES.keys():
        odd = next(name for name, ref in refs.items() if ref.dtype not in DTYPES)
        raise ValueError(f"{path}: {odd} has dtype {refs[odd].dtype}; expected one of {', '.join(DTYPES)}")
    return refs
