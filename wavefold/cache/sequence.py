"""One sequence's place in a pool: block table, fixed state, length."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch

from wavefold.cache.layout import BLOCK_TOKENS, REWIND
from wavefold.cache.snapshot import Snapshot
from wavefold.cache.state import SequenceState
from wavefold.cache.tip import Tip
from wavefold.ops import Adapter

if TYPE_CHECKING:
    from wavefold.cache.pool import Pool


class Places:
    """Where a sequence's rows lie: the blocks of its table in the pool's storage, and the rings of its state.

    It keeps that memory alive. `derived` is for addresses that readers compute from it.
    """

    def __init__(self, pool: Pool, state: SequenceState, blocks: list[int]):
        self.storage, self.state, self.blocks = pool.storage, state, blocks
        self.table = torch.tensor(blocks, dtype=torch.int64, device=pool.device)
        """The block table, int64 [blocks]."""
        self.derived: dict[str, object] = {}


class Sequence:
    """One sequence's place in the pool. `Pool.open` and `fork` make one; `close` gives its blocks back."""

    def __init__(self, pool: Pool, state: SequenceState):
        self.pool = pool
        self.state = state
        self.table: list[int] = []
        self.num_tokens = 0
        self.num_mtp_tokens = 0
        """Tokens in the rings of the MTP layers, which lag behind the main layers."""
        self.mtp_first = 0
        """The first token in the rings of the MTP layers. They count positions from it."""
        self.mark = 0
        """A pass that goes over this position, and not a pass that ends there, leaves the tip of it in `marked`."""
        self.marked: Tip | None = None
        self.adapter: Adapter | None = None
        """What the model's matrices are adapted by, for all of its tokens: whoever opens it sets it before a pass."""
        self._places: Places | None = None
        self._high = 0  # the rings hold rows up to this position, which bounds a rewind
        self.closed = False

    @property
    def places(self) -> Places:
        """Where the sequence's rows lie. The same object is returned while no block comes or goes."""
        if self._places is None or self._places.blocks != self.table:
            self._places = Places(self.pool, self.state, list(self.table))
        return self._places

    @property
    def cache_bytes(self) -> int:
        """Bytes of its blocks (shared blocks count in full) and of its state."""
        return len(self.table) * self.pool.layout.block_bytes + self.state.num_bytes

    @property
    def sure_mtp_tokens(self) -> int:
        """MTP rows that stay right whatever token comes next: the last token's row also reads the token after it."""
        return min(self.num_mtp_tokens, max(0, self.num_tokens - 1))

    @property
    def _sure_mtp_range(self) -> range:
        """The tokens whose MTP rows are there and stay right."""
        end = self.sure_mtp_tokens
        return range(min(self.mtp_first, end), end)

    def reaches(self, num_tokens: int) -> bool:
        """True if the sequence can go on at `num_tokens`, at most `REWIND` behind its furthest position."""
        return max(0, self._high - REWIND) <= num_tokens <= self.num_tokens

    def tip(self, num_tokens: int, copied: bool = True) -> Tip:
        """Returns what is needed, beside the blocks, to go on at `num_tokens`, which the sequence `reaches`.

        Its state is a copy, or else the sequence's own: then the sequence has to be closed, by `leave`.
        """
        self._check_open()
        assert self.reaches(num_tokens), "the rings have lost rows before this position"
        end = min(self.num_mtp_tokens, max(0, num_tokens - 1))
        tokens = range(min(self.mtp_first, end), end)
        return Tip(num_tokens, self._high, tokens, self.state.copy(self.pool.spare()) if copied else self.state)

    def tip_ahead(self, num_tokens: int, state: SequenceState) -> Tip:
        """Returns the tip at `num_tokens`, amid a pass that is not committed, with the rings as they are there."""
        return Tip(num_tokens, max(self._high, num_tokens), self._sure_mtp_range, state)

    def skip_mtp(self, num_tokens: int) -> None:
        """The MTP layers forget their rows and go on at token `num_tokens`, as if none were before it.

        A row reads the `sliding_window` rows up to its own: from then on it is that of a sequence with all rows, but
        for rounding. Raises ValueError for a token before `num_mtp_tokens`, or one that the main layers have not run.
        """
        self._check_open()
        if not self.num_mtp_tokens <= num_tokens <= self.num_tokens:
            raise ValueError(
                f"skip_mtp({num_tokens}) is not allowed; expected {self.num_mtp_tokens} to {self.num_tokens}"
            )
        self.mtp_first = self.num_mtp_tokens = num_tokens

    def forget_mtp_guesses(self) -> None:
        """The MTP layers forget the rows of tokens that the main layers have not run."""
        self.num_mtp_tokens = min(self.num_mtp_tokens, self.num_tokens)

    @classmethod
    def at(cls, snapshot: Snapshot) -> Sequence:
        """Returns a sequence with the past of `snapshot`, whose blocks it shares. `Pool.open` registers it."""
        other = cls._with_past(
            snapshot.pool, snapshot.table, snapshot.num_tokens, snapshot.high, snapshot.mtp_tokens, snapshot.state
        )
        other.adapter = snapshot.adapter
        return other

    @classmethod
    def _with_past(
        cls, pool: Pool, table: list[int], num_tokens: int, high: int, mtp_tokens: range, state: SequenceState
    ) -> Sequence:  # fmt: skip
        """Returns a sequence that shares the blocks of `table` and has a copy of `state`."""
        other = cls(pool, state.copy(pool.spare()))
        other.table, other.num_tokens, other._high = list(table), num_tokens, high
        other.mtp_first, other.num_mtp_tokens = mtp_tokens.start, mtp_tokens.stop
        pool.blocks.share(table)
        return other

    def fork(self) -> Sequence:
        """Returns a second sequence with the same past. The two share a block until one of them writes to it."""
        self._check_open()
        lengths = self.num_tokens, self._high, self._sure_mtp_range
        other = self.pool._adopt(Sequence._with_past(self.pool, self.table, *lengths, self.state))
        other.adapter = self.adapter
        return other

    def snapshot(self) -> Snapshot:
        """Returns the sequence as it is now, at a block boundary. The caller owns the snapshot until its `close`.

        Raises ValueError unless its number of tokens is a multiple of 128.
        """
        self._check_open()
        if self.num_tokens % BLOCK_TOKENS:
            raise ValueError(
                f"a snapshot at {self.num_tokens} tokens is not allowed; expected a multiple of {BLOCK_TOKENS}, where "
                "all blocks are complete"
            )
        snapshot = Snapshot(
            self.pool, list(self.table), self.num_tokens, self._high, self._sure_mtp_range, self.state.copy()
        )
        snapshot.adapter = self.adapter
        return snapshot

    def rewind(self, num_tokens: int) -> None:
        """Forgets the last `num_tokens` tokens, at most `REWIND` behind the furthest position of the sequence."""
        self._check_open()
        num_tokens = operator.index(num_tokens)
        allowed = min(self.num_tokens, max(0, REWIND - (self._high - self.num_tokens)))
        if not 0 <= num_tokens <= allowed:
            raise ValueError(
                f"rewind({num_tokens}) is not allowed; expected 0 to {allowed} "
                f"({self.num_tokens} tokens, and at most {REWIND} behind position {self._high})"
            )
        self.num_tokens -= num_tokens
        self.mtp_first, self.num_mtp_tokens = self._sure_mtp_range.start, self.sure_mtp_tokens
        self._truncate()

    def close(self) -> None:
        """Gives blocks and state back. A second call is an error."""
        self.leave()
        self.pool.give_back(self.state)

    def leave(self) -> None:
        """`close`, and the state is another owner's, who has it from `tip`."""
        self._check_open()
        self.pool._free(self.table)
        self.table = []
        self.closed = True
        self.pool.sequences.remove(self)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("this sequence is closed; open another one")

    def _truncate(self) -> None:
        keep = self.pool.layout.num_blocks(self.num_tokens)
        self.pool._free(self.table[keep:])
        del self.table[keep:]

    def _growth(self, count: int) -> int:
        """Returns the number of blocks to add for `count` more tokens."""
        if count <= 0:
            raise ValueError(f"a count of {count} tokens is not allowed; expected 1 or more")
        total = self.num_tokens + count
        limit = self.pool.layout.config.max_position_embeddings
        if total > limit:
            raise ValueError(
                f"a sequence of {total} tokens is not allowed; expected at most max_position_embeddings = {limit}"
            )
        return self.pool.layout.num_blocks(total) - len(self.table)

    def _own_last_block(self) -> None:
        """Copy on write: a copy replaces the last block, which other sequences may go on reading."""
        self.table += self.pool.blocks.allocate(1)  # at the end until it is complete: there `_truncate` finds it
        self.pool._copy_block(self.table[-2], self.table[-1])
        self.pool._free([self.table.pop(-2)])
