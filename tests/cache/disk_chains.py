"""Chains of keys whose payloads follow from their keys, so that anybody can tell a right payload from a wrong one."""

from __future__ import annotations

import hashlib
import mmap
import random
from collections.abc import Sequence
from pathlib import Path

from wavefold.cache.disk import DiskCache, Space

DIGEST = hashlib.sha256(b"a space").digest()
BLOCK_BYTES, STATE_BYTES = 9_000, 20_000


def chain(name: object, count: int, parent: bytes = DIGEST) -> list[bytes]:
    """`count` keys behind `parent`."""
    keys = []
    for number in range(count):
        parent = hashlib.sha256(parent + f"{name} {number}".encode()).digest()
        keys.append(parent)
    return keys


def payload(key: bytes, length: int) -> bytes:
    return random.Random(key + length.to_bytes(8, "little")).randbytes(length)


def space_of(cache: DiskCache, digest: bytes = DIGEST) -> Space:
    return cache.space(digest, BLOCK_BYTES, STATE_BYTES, "a test")


def put(space: Space, keys: Sequence[bytes], states: Sequence[int] = (), parent: bytes = DIGEST) -> None:
    """Puts the blocks of a chain, and states behind those with these numbers."""
    for number, key in enumerate(keys):
        state = memoryview(payload(key, STATE_BYTES)) if number in states else None
        space.put(key, parent, memoryview(payload(key, BLOCK_BYTES)), state)
        parent = key


def read(space: Space, keys: Sequence[bytes], state_key: bytes | None = None, aligned: bool = True) -> int:
    """The number of leading blocks that are there, after all that came was compared with what it must be."""
    stride = 12_288 if aligned else BLOCK_BYTES + 64
    memory = memoryview(mmap.mmap(-1, stride * (len(keys) + 1)))
    state_memory = memoryview(mmap.mmap(-1, STATE_BYTES))
    blocks = [memory[at * stride : at * stride + BLOCK_BYTES] for at in range(len(keys))]
    count = space.read(keys, blocks, state_key, None if state_key is None else state_memory)
    for key, block in zip(keys[:count], blocks, strict=False):
        assert bytes(block) == payload(key, BLOCK_BYTES), "a wrong payload"
    if count and state_key is not None:
        assert bytes(state_memory) == payload(state_key, STATE_BYTES), "a wrong state"
    return count


def num_found(space: Space, keys: Sequence[bytes]) -> int:
    """The number of leading keys whose blocks are there."""
    found = [one.block for one in space.find(keys)]
    return found.index(False) if False in found else len(found)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.segment"))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
