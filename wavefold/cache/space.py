"""What a prefix cache asks of a store that outlives the process. `DiskCache.space` makes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Space(Protocol):
    """Blocks and states of one model, arithmetic and layout, by their keys (`Chain.keys`), 32 bytes each."""

    def find(self, keys: Sequence[bytes]) -> Sequence[tuple[bool, bool]]:
        """Returns, for each key, True if its block is there, and True if the state at the block's end is."""

    def put(self, key: bytes, parent: bytes, block: memoryview | None, state: memoryview | None) -> None:
        """Takes copies of a block and of a state, if it lacks them. Never raises for a disk that is full."""

    def read(
        self, keys: Sequence[bytes], blocks: Sequence[memoryview], state_key: bytes | None, state: memoryview | None
    ) -> int:  # fmt: skip
        """Fills `blocks` and `state`. Returns how many blocks, from the first on, are right; 0 if the state is not.

        Memory may have more room than a record takes: what lies behind it has any content then.
        """

    def settle(self) -> None:
        """Returns once nothing is read any more into memory that `read` was given, though it was interrupted."""

    def touch(self, keys: Sequence[bytes]) -> None:
        """The keys are used now."""
