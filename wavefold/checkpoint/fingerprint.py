"""The identity of a checkpoint's weights: a SHA-256 of each tensor, and one of them all.

A digest is over the tensor's name, dtype, shape and content. The content of a routed expert's codes is sampled where
they are larger than 1 MiB: the first, the middle and the last 64 KiB. All else is read in full, scales included. The
reason is time: of the 160 GB of DeepSeek-V4-Flash about 24 GB are read. Two threads hashed 1.1 GB/s of cached files on
two busy cores of an AMD EPYC (one thread 0.66), which makes 21 s. A change of codes that misses all three samples is
not seen.

Files are read, not mapped: the pages do not count as memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from wavefold.checkpoint.files import INDEX_NAME
from wavefold.model.expert_store import routed_expert

WHOLE_BYTES = 1 << 20
SAMPLE_BYTES = 64 << 10
CHUNK_BYTES = 1 << 20
NUM_THREADS = 2


class _Entry(NamedTuple):
    """A tensor of a file: where its bytes begin and end."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def spans(self) -> Iterator[tuple[int, int]]:
        """(begin, end) of the bytes that are hashed."""
        sampled = routed_expert(self.name) is not None and self.name.endswith(".weight")
        if not sampled or self.end - self.begin <= WHOLE_BYTES:
            yield self.begin, self.end
            return
        middle = (self.begin + self.end - SAMPLE_BYTES) // 2
        for begin in (self.begin, middle, self.end - SAMPLE_BYTES):
            yield begin, begin + SAMPLE_BYTES


def fingerprint(folder: Path) -> dict[str, str]:
    """The digest (32 hexadecimal digits) of each tensor in the safetensors files that lie in `folder`, by name.

    Files that the index lists and the folder lacks are left out, so that ranks with other experts' files missing can
    compare the tensors that both have. Raises ValueError that names a file which is no safetensors file.
    """
    entries = [entry for path in _files(folder) for entry in _entries(path)]
    with ThreadPoolExecutor(NUM_THREADS) as threads:  # hashlib and os.pread release the GIL
        parts = threads.map(_digests, (entries[i::NUM_THREADS] for i in range(NUM_THREADS)))
    return {name: digest for part in parts for name, digest in part.items()}


def identity(digests: Mapping[str, str]) -> str:
    """One digest of all the tensors of a fingerprint, whatever their order and files (64 hexadecimal digits)."""
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def first_difference(a: Mapping[str, str], b: Mapping[str, str]) -> str | None:
    """The first tensor, by name, that both fingerprints have and that differs; None if there is none."""
    return next((name for name in sorted(a.keys() & b.keys()) if a[name] != b[name]), None)


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index}: not a safetensors index ({error!r})") from None
        return sorted(folder / name for name in names if (folder / name).is_file())
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def _entries(path: Path) -> list[_Entry]:
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(start, path.stat().st_size) - 8))
        return [
            _Entry(path, name, entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error!r}); download or copy it again") from None


def _digests(entries: list[_Entry]) -> dict[str, str]:
    digests: dict[str, str] = {}
    path, descriptor = None, -1
    try:
        for entry in entries:
            if entry.path != path:
                if descriptor >= 0:
                    os.close(descriptor)
                path, descriptor = entry.path, os.open(entry.path, os.O_RDONLY)
            digests[entry.name] = _digest(entry, descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return digests


def _digest(entry: _Entry, descriptor: int) -> str:
    sha = hashlib.sha256(f"{entry.name} {entry.dtype} {entry.shape}\n".encode())
    for begin, end in entry.spans():
        for at in range(begin, end, CHUNK_BYTES):
            piece = os.pread(descriptor, min(CHUNK_BYTES, end - at), at)
            if len(piece) < min(CHUNK_BYTES, end - at):
                raise ValueError(f"{entry.path}: ends inside {entry.name}; download or copy it again")
            sha.update(piece)
    return sha.hexdigest()[:32]
