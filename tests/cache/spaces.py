"""A store for prefix caches in memory, as `Space` says: what `DiskCache` does with files, with faults on demand."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


class MemorySpace:
    """Keeps what it is given. `faults`: the probability that a record turns out to be bad when it is read."""

    def __init__(self, random: Random | None = None, faults: float = 0.0):
        self.blocks: dict[bytes, bytes] = {}
        self.states: dict[bytes, bytes] = {}
        self.parents: dict[bytes, bytes] = {}
        self.random, self.faults = random or Random(0), faults
        self.num_read = self.num_bad = 0

    def find(self, keys: Sequence[bytes]) -> list[tuple[bool, bool]]:
        return [(key in self.blocks, key in self.states) for key in keys]

    def put(self, key: bytes, parent: bytes, block: memoryview | None, state: memoryview | None) -> None:
        self.parents[key] = parent
        if block is not None:
            self.blocks.setdefault(key, bytes(block))
        if state is not None:
            self.states.setdefault(key, bytes(state))

    def read(
        self, keys: Sequence[bytes], blocks: Sequence[memoryview], state_key: bytes | None, state: memoryview | None
    ) -> int:  # fmt: skip
        """A bad record is found when it is read, after some of its bytes have been written to their place."""
        good = 0
        for key, block in zip(keys, blocks, strict=True):
            record = self.blocks.get(key)
            if record is None or self._is_bad(self.blocks, key, block):
                break
            block[: len(record)] = record
            good += 1
        if state_key is not None:
            assert state is not None
            record = self.states.get(state_key)
            if record is None or self._is_bad(self.states, state_key, state):
                return 0
            state[:] = record
        self.num_read += good
        return good

    def _is_bad(self, records: dict[bytes, bytes], key: bytes, place: memoryview) -> bool:
        if self.random.random() >= self.faults:
            return False
        place[:] = b"\xff" * len(place)
        del records[key]
        self.num_bad += 1
        return True

    def settle(self) -> None:
        """Nothing is read in the background."""

    def touch(self, keys: Sequence[bytes]) -> None:
        assert all(len(key) == 32 for key in keys)
