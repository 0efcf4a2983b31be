"""The identity of a checkpoint's weights: a SHA-256 of each tensor, and one of all tensors.

A digest is over the tensor's name, dtype, shape and content. The content of a routed expert's codes is sampled where
they are larger than 1 MiB: the first, the middle and the last 64 KiB. All else is read in full, scales included. The
reason is time: of the 160 GB of DeepSeek-V4-Flash about 24 GB are read. Two threads hashed 1.1 GB/s of cached files on
two busy cores of an AMD EPYC (one thread 0.66), which makes 21 s. A change of codes that misses all three samples is
not seen.

Files are read, not mapped: the pages do not count as memory of the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wavefold.checkpoint.files import present_refs
from wavefold.checkpoint.index import TensorRef
from wavefold.experts import routed_expert

WHOLE_BYTES = 1 << 20
SAMPLE_BYTES = 64 << 10
CHUNK_BYTES = 1 << 20
NUM_THREADS = 2


def fingerprint(folder: Path) -> dict[str, str]:
    """The digest (32 hexadecimal digits) of each tensor in `folder`'s safetensors files, or in a GGUF file, by name.

    Files that the index lists and the folder lacks are left out, so that ranks that lack different files can compare
    the tensors that both have. Raises ValueError that names a file if it is no safetensors file.
    """
    refs = list(present_refs(folder).items())
    with ThreadPoolExecutor(NUM_THREADS) as threads:  # hashlib and os.pread release the GIL
        parts = threads.map(_digests, (refs[i::NUM_THREADS] for i in range(NUM_THREADS)))
    return {name: digest for part in parts for name, digest in part.items()}


def identity(digests: Mapping[str, str]) -> str:
    """One digest of all the tensors of a fingerprint, whatever their order and files (64 hexadecimal digits)."""
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def _spans(name: str, ref: TensorRef) -> Iterator[tuple[int, int]]:
    """(begin, end) in the file of the bytes that are hashed."""
    begin, end = ref.offset, ref.offset + ref.nbytes
    sampled = routed_expert(name) is not None and name.endswith(".weight")
    if not sampled or ref.nbytes <= WHOLE_BYTES:
        yield begin, end
        return
    middle = (begin + end - SAMPLE_BYTES) // 2
    for first in (begin, middle, end - SAMPLE_BYTES):
        yield first, first + SAMPLE_BYTES


def _digests(refs: list[tuple[str, TensorRef]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    path, descriptor = None, -1
    try:
        for name, ref in refs:
            if ref.path != path:
                if descriptor >= 0:
                    os.close(descriptor)
                path, descriptor = ref.path, os.open(ref.path, os.O_RDONLY)
            digests[name] = _digest(name, ref, descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return digests


def _digest(name: str, ref: TensorRef, descriptor: int) -> str:
    sha = hashlib.sha256(f"{name} {ref.dtype} {ref.shape}\n".encode())
    for begin, end in _spans(name, ref):
        for at in range(begin, end, CHUNK_BYTES):
            piece = os.pread(descriptor, min(CHUNK_BYTES, end - at), at)
            if len(piece) < min(CHUNK_BYTES, end - at):
                raise ValueError(f"{ref.path}: ends inside {name}; download or copy it again")
            sha.update(piece)
    return sha.hexdigest()[:32]
