"""The paged pool: blocks of 128 tokens of all layers, which sequences reach by block tables. Report section 3.5.1.

    Pool                    storage [blocks, bytes]: a block is one contiguous record of all layers; one allocator
      Sequence              block table, fixed state, length; fork, rewind, snapshot, close
        PagedView           one pass over it: reads blocks, writes new rows, commits at the end
      Snapshot              a sequence at a block boundary; other sequences can be opened at it
      Holder                keeps blocks that nobody else needs, until they are needed (prefix.py)

Forks and snapshots share blocks. A shared block that is only partly filled is copied before it is written. A pass that
fails or is interrupted leaves the sequence as it was: rings are written at commit, and new rows lie beyond the
committed length. An interrupted commit is completed before the interruption goes on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from typing import Protocol

import torch
from torch import Tensor

from wavefold.cache.blocks import BlockAllocator
from wavefold.cache.layout import BLOCK_TOKENS, CacheLayout, RowKind
from wavefold.cache.paged_view import PagedView
from wavefold.cache.record import Records
from wavefold.cache.sequence import Sequence
from wavefold.cache.snapshot import Snapshot
from wavefold.cache.state import SequenceState
from wavefold.cache.storage import block_storage
from wavefold.cache.tip import Tip
from wavefold.config import ModelConfig
from wavefold.system import check_memory

MOST_SPARE = 2


class Holder(Protocol):
    """Holds blocks for whoever may ask for them again, and gives them up where they are needed."""

    def make_room(self, is_enough: Callable[[], bool]) -> None:
        """Gives blocks up until `is_enough()`, or until it holds none."""

    def tables(self) -> Iterable[Iterable[int]]:
        """The blocks that it holds."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the states that it keeps."""


class Pool:
    """Cache for sequences of one model, `num_tokens` tokens in all, each sequence rounded up to 128.

    Raises ValueError, before anything is allocated, for less than one token, and where pool and state of one sequence
    together do not fit in memory.
    `poison` overwrites freed blocks and closed states with NaN, so that tests see a stale read.
    """

    def __init__(
        self, config: ModelConfig, num_tokens: int, records: Records, device: torch.device | str = "cpu",
        poison: bool = False, draft_tokens: int = 1, mtp: bool = False,
    ):  # fmt: skip
        if num_tokens <= 0:
            raise ValueError(f"num_tokens = {num_tokens} is not allowed; expected 1 or more")
        if draft_tokens <= 0:
            raise ValueError(f"draft_tokens = {draft_tokens} is not allowed; expected 1 or more")
        self.layout = CacheLayout(config, records, draft_tokens, mtp)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            num_bytes = self.layout.bytes_for(num_tokens)
            check_memory(num_bytes, f"a cache for {num_tokens:,} tokens", "fewer tokens or smaller records")
        self.poison = poison
        self.blocks = BlockAllocator(self.layout.num_blocks(num_tokens))
        self.sequences: list[Sequence] = []
        self.snapshots: list[Snapshot] = []
        self._spare: list[Tensor] = []
        """Buffers of states that nobody has any more. To get new memory takes longer than to fill it."""
        self._holder: Callable[[], Holder | None] = lambda: None
        self.storage = block_storage(self.blocks.num_blocks, self.layout.block_stride, self.device)
        """uint8 [blocks, block_stride]: row b is block b, all layers."""
        self._kinds = {kind.name: kind for kind in self.layout.row_kinds}
        self._rows: dict[tuple[str, int], Tensor] = {}
        if poison:
            self.storage.fill_(0xFF)

    def open(self, at: Snapshot | None = None) -> Sequence:
        """Returns a new sequence: empty, or with the past of a snapshot, whose blocks it shares.

        The caller owns the sequence until `close`. Raises ValueError for a snapshot that is closed or of another pool.
        """
        if at is None:
            state = SequenceState(self.layout, self.device, self.spare())
            if self.poison:
                state.poison()
            elif self.holder is not None:  # a state may leave the process: its unwritten rows hold nobody's bytes
                state.buffer.zero_()
            return self._adopt(Sequence(self, state))
        at.check_open(self)
        return self._adopt(Sequence.at(at))

    @property
    def holder(self) -> Holder | None:
        """Who holds blocks until others need them, if anybody does. The pool does not keep it alive."""
        return self._holder()

    @holder.setter
    def holder(self, holder: Holder) -> None:
        self._holder = weakref.ref(holder)

    def spare(self) -> Tensor | None:
        """Returns a buffer for a state, whose content is undefined, if there is one to spare."""
        return self._spare.pop() if self._spare else None

    def prepare(self) -> None:
        """Fills up what there is to spare, at a moment when nobody waits: new memory takes longer than a copy."""
        while len(self._spare) < MOST_SPARE:
            self._spare.append(torch.zeros(self.layout.state_bytes, dtype=torch.uint8, device=self.device))

    def give_back(self, state: SequenceState) -> None:
        """The state is nobody's any more."""
        if self.poison:
            state.poison()
        if self.holder is not None and len(self._spare) < MOST_SPARE:
            self._spare.append(state.buffer)

    def open_at(self, table: Seq[int], tip: Tip) -> Sequence:
        """Returns a new sequence that shares the blocks of `table` and goes on at `tip`, whose state is copied."""
        assert len(table) == self.layout.num_blocks(tip.num_tokens), "blocks and length disagree"
        return self._adopt(Sequence._with_past(self, list(table), *tip))

    def grow(self, num_tokens: int) -> None:
        """Makes room for `num_tokens` tokens, at least as many as before. No sequence may be open."""
        assert not self.sequences and not self.snapshots, "sequences know where their rows lie"
        self.blocks.grow(self.layout.num_blocks(num_tokens))
        before = self.storage
        self.storage = block_storage(self.blocks.num_blocks, self.layout.block_stride, self.device)
        if self.poison:
            self.storage.fill_(0xFF)
        self.storage[: len(before)] = before
        self._rows.clear()

    def _adopt(self, sequence: Sequence) -> Sequence:
        self.sequences.append(sequence)
        return sequence

    def begin(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[PagedView]:
        """Reserves room for counts[i] more tokens in sequences[i], for all or none. Raises PoolFull without room."""
        copies, growth = self.check_room(sequences, counts)
        try:
            for sequence, copy, grow in zip(sequences, copies, growth, strict=True):
                if copy:
                    sequence._own_last_block()
                sequence.table += self.blocks.allocate(grow)
            return [PagedView(sequence, count) for sequence, count in zip(sequences, counts, strict=True)]
        except BaseException:
            for sequence in sequences:
                sequence._truncate()
            raise

    def begin_mtp(self, sequences: Seq[Sequence], counts: Seq[int], guessed: bool = False) -> list[PagedView]:
        """Begins passes of counts[i] tokens through the MTP layers, which cache windows alone and need no blocks.

        With `guessed`, up to `draft_tokens` tokens may be ahead of the main layers. Raises ValueError for a pool
        without their rings, for sequences that cannot be extended, and for other tokens that the main layers have not
        run yet.
        """
        if not self.layout.mtp:
            raise ValueError("this pool has no rings of MTP layers; open one with mtp=True")
        self._check_sequences(sequences)
        for sequence, count in zip(sequences, counts, strict=True):
            behind = sequence.num_tokens - sequence.num_mtp_tokens + (self.layout.draft_tokens if guessed else 0)
            if not 0 < count <= behind:
                raise ValueError(f"a count of {count} MTP tokens is not allowed; expected 1 to {behind}")
        return [PagedView(sequence, count, mtp=True) for sequence, count in zip(sequences, counts, strict=True)]

    def commit(self, views: Seq[PagedView]) -> None:
        """The pass over `views` is complete: its tokens are now their sequences' past."""
        try:
            for view in views:
                view.take_mark()
            for view in views:
                view.commit()
        except BaseException:  # half a commit has lost old rows already; a whole one may be repeated
            for view in views:
                view.commit()
            raise

    def abort(self, views: Seq[PagedView]) -> None:
        """The pass over `views` did not complete: their sequences stay as they were before it."""
        for view in views:
            view.abort()

    def check_room(self, sequences: Seq[Sequence], counts: Seq[int]) -> tuple[list[bool], list[int]]:
        """Returns, for each sequence, True if its last block must be copied, and the number of blocks to add.

        Raises ValueError for sequences and counts that cannot be extended, PoolFull when too few blocks are free.
        """
        self._check_sequences(sequences)
        growth = [sequence._growth(count) for sequence, count in zip(sequences, counts, strict=True)]

        def is_enough() -> bool:
            return sum(self._copies(sequences)) + sum(growth) <= self.blocks.num_free

        if (holder := self.holder) is not None and not is_enough():
            holder.make_room(is_enough)
        copies = self._copies(sequences)
        self.blocks.check_free(sum(copies) + sum(growth))
        return copies, growth

    def _check_sequences(self, sequences: Seq[Sequence]) -> None:
        """Raises ValueError for a sequence that is closed, of another pool, or named twice."""
        for sequence in sequences:
            if sequence.pool is not self or sequence.closed:
                raise ValueError("a sequence is closed or belongs to another pool; open it in this one")
        if len(set(map(id, sequences))) != len(sequences):
            raise ValueError("a sequence appears twice; give all its tokens at once")

    def _copies(self, sequences: Seq[Sequence]) -> list[bool]:
        """Returns, for each sequence, True if it writes to a block that others still hold. The last holder keeps it."""
        others: dict[int, int] = {}
        copies = []
        for sequence in sequences:
            if sequence.num_tokens % BLOCK_TOKENS == 0:
                copies.append(False)
                continue
            block = sequence.table[-1]
            others[block] = others.get(block, self.blocks.references[block]) - 1
            copies.append(others[block] > 0)
        return copies

    def _free(self, blocks: Seq[int]) -> None:
        freed = self.blocks.release(blocks)
        if self.poison and freed:
            self.storage[freed] = 0xFF

    def _copy_block(self, source: int, target: int) -> None:
        self.storage[target] = self.storage[source]

    def block_bytes(self, block: int) -> memoryview:
        """The record of one block, all layers: contiguous, writable, memory of the pool. CPU pools only."""
        return self.padded_bytes([block])[0][: self.layout.block_bytes]

    def padded_bytes(self, blocks: Iterable[int]) -> list[memoryview]:
        """The records of blocks, each with what lies between it and the next block, which is nobody's."""
        memory, stride = memoryview(self.storage.view(-1).numpy()), self.layout.block_stride  # type: ignore[arg-type]
        return [memory[block * stride : (block + 1) * stride] for block in blocks]

    def rows_of(self, kind: str, layer: int) -> tuple[Tensor, RowKind]:
        """Returns a layer's rows where they lie, [blocks, rows, record width], and their kind."""
        row_kind = self._kinds[kind]
        if (rows := self._rows.get((kind, layer))) is None:
            first = row_kind.offset_of(layer)
            part = self.storage[:, first : first + row_kind.layer_bytes]
            rows = part.unflatten(1, (row_kind.rows, -1)).view(row_kind.record.dtype)
            self._rows[kind, layer] = rows
        return rows, row_kind

    @property
    def num_bytes(self) -> int:
        """Bytes in use: the paged storage and the states of the open sequences, of snapshots and of the holder."""
        states = sum(sequence.state.num_bytes for sequence in self.sequences)
        states += holder.num_bytes if (holder := self.holder) else 0
        states += sum(buffer.nbytes for buffer in self._spare)
        states += sum(snapshot.state.num_bytes for snapshot in self.snapshots)
        return self.blocks.num_blocks * self.layout.block_bytes + states

    def abandon(self) -> None:
        """Closes all sequences, whatever they are in the middle of, and gives their blocks back."""
        for sequence in self.sequences:
            sequence.closed = True
        self.sequences.clear()
        self.recount()

    def recount(self) -> None:
        """Counts the holders of each block anew, from those that are there."""
        self.blocks.recount(self._tables())

    def _tables(self) -> Iterator[Iterable[int]]:
        yield from (sequence.table for sequence in self.sequences)
        yield from (snapshot.table for snapshot in self.snapshots)
        if (holder := self.holder) is not None:
            yield from holder.tables()

    def check_integrity(self) -> None:
        """Raises AssertionError unless every block is either free or held exactly as the block tables say."""
        for sequence in self.sequences:
            assert not sequence.closed
            assert len(sequence.table) == self.layout.num_blocks(sequence.num_tokens), "table and length disagree"
        self.blocks.check_integrity(self._tables())
