"""A sequence at a block boundary: its blocks, shared, and a copy of its rings and tails. Sequences are opened at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from wavefold.cache.layout import REWIND
from wavefold.cache.state import SequenceState
from wavefold.ops import Adapter

if TYPE_CHECKING:
    from wavefold.cache.pool import Pool


class Snapshot:
    """Holds a share of its blocks until `close`, even after its sequence is closed.

    `table`: the block numbers. `high`: the sequence's furthest position, which bounds rewinds.
    `mtp_tokens`: the tokens whose rows the MTP layers have.
    """

    def __init__(
        self, pool: Pool, table: list[int], num_tokens: int, high: int, mtp_tokens: range, state: SequenceState
    ):
        self.pool, self.table, self.num_tokens, self.state = pool, table, num_tokens, state
        self.high, self.mtp_tokens = high, mtp_tokens
        self.adapter: Adapter | None = None
        """The sequence's."""
        self.closed = False
        pool.blocks.share(table)
        pool.snapshots.append(self)

    @classmethod
    def of_bytes(cls, pool: Pool, table: list[int], num_tokens: int, state_bytes: bytes | memoryview) -> Snapshot:
        """Returns a snapshot of `pool` blocks that hold the rows of `num_tokens` tokens, and of a state's bytes.

        `state_bytes` are those of another snapshot of the same layout. A sequence opened from it cannot step back
        behind `num_tokens`: the bytes do not say how far the first sequence had been, and which rows its rings lost.
        Raises ValueError for sizes that do not fit.
        """
        layout = pool.layout
        if len(state_bytes) != layout.state_bytes or layout.num_blocks(num_tokens) != len(table):
            raise ValueError(
                f"{len(state_bytes):,} bytes of state and {len(table)} blocks for {num_tokens} tokens do not fit; "
                f"expected {layout.state_bytes:,} bytes and {layout.num_blocks(num_tokens)} blocks"
            )
        state = SequenceState(layout, pool.device)
        state.buffer.copy_(torch.frombuffer(bytearray(state_bytes), dtype=torch.uint8))
        return cls(pool, table, num_tokens, num_tokens + REWIND, range(0), state)

    @property
    def state_bytes(self) -> memoryview:
        """The rings and tails as one contiguous buffer, memory of the snapshot. CPU pools only."""
        self.check_open(self.pool)
        return memoryview(self.state.buffer.numpy())  # type: ignore[arg-type]

    def check_open(self, pool: Pool) -> None:
        """Raises ValueError for a snapshot that is closed or belongs to another pool than `pool`."""
        if self.closed or self.pool is not pool:
            raise ValueError("the snapshot is closed or belongs to another pool; take one of a sequence in this pool")

    def close(self) -> None:
        """Gives the share of the blocks back. A second call is an error."""
        self.check_open(self.pool)
        self.closed = True
        self.pool.snapshots.remove(self)
        self.pool._free(self.table)
        if self.pool.poison:
            self.state.poison()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
