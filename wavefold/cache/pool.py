"""The paged pool: blocks of 128 tokens for all layers, handed to sequences through block tables. Report section 3.5.1.

    Pool                    storage of every row kind, [layers, blocks, rows, record]; one allocator
      Sequence              block table, fixed state, length; fork, rewind, close
        PagedMemory         one pass over it: reads blocks, writes new rows, commits at the end

Forks share blocks; a shared block that is only partly filled is copied before it is written. A pass that fails or is
interrupted leaves the sequence as it was: rings are written at commit, and new rows lie beyond the committed length.
A commit that is interrupted is completed before the interruption goes on.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from wavefold.cache.blocks import BlockAllocator, PoolFull
from wavefold.cache.layout import BLOCK_TOKENS, REWIND, CacheLayout, RowKind
from wavefold.cache.memory import Memory
from wavefold.cache.record import Record, Records
from wavefold.cache.state import SequenceState, ring_rows, ring_store
from wavefold.config import ModelConfig
from wavefold.ops import native
from wavefold.ops.native import RowSource
from wavefold.system import check_memory

__all__ = ["PagedMemory", "Pool", "PoolFull", "Sequence"]


class Pool:
    """Cache for sequences of one model, `num_tokens` tokens in all, each sequence rounded up to 128.

    Raises ValueError, before anything is allocated, for less than one token, and for more than memory has room for
    with the state of one sequence.
    `poison` overwrites freed blocks and closed states with NaN, so that a stale read cannot go unseen (for tests).
    """

    def __init__(
        self,
        config: ModelConfig,
        num_tokens: int,
        records: Records,
        device: torch.device | str = "cpu",
        poison: bool = False,
    ):
        if num_tokens <= 0:
            raise ValueError(f"num_tokens = {num_tokens} is not allowed; expected 1 or more")
        self.layout = CacheLayout(config, records)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            num_bytes = self.layout.bytes_for(num_tokens)
            check_memory(num_bytes, f"a cache for {num_tokens:,} tokens", "fewer tokens or smaller records")
        self.poison = poison
        self.blocks = BlockAllocator(self.layout.num_blocks(num_tokens))
        self.sequences: list[Sequence] = []
        self._kinds = {kind.name: kind for kind in self.layout.row_kinds}
        self._storage: dict[str, Tensor] = {}
        for kind in self.layout.row_kinds:
            shape = (len(kind.layers), self.blocks.num_blocks, kind.rows)
            self._storage[kind.name] = kind.record.empty(*shape, device=self.device)
            if poison:
                kind.record.poison(self._storage[kind.name])

    def open(self) -> Sequence:
        """A new, empty sequence. It is the caller's until `close`."""
        state = SequenceState(self.layout, self.device)
        if self.poison:
            state.poison()
        return self._adopt(Sequence(self, state))

    def _adopt(self, sequence: Sequence) -> Sequence:
        self.sequences.append(sequence)
        return sequence

    def begin(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[PagedMemory]:
        """Reserve room for counts[i] more tokens in sequences[i], for all or, raising PoolFull, for none."""
        copies, growth = self.check_room(sequences, counts)
        try:
            for sequence, copy, grow in zip(sequences, copies, growth, strict=True):
                if copy:
                    sequence._own_last_block()
                sequence.table += self.blocks.allocate(grow)
            return [PagedMemory(sequence, count) for sequence, count in zip(sequences, counts, strict=True)]
        except BaseException:
            for sequence in sequences:
                sequence._truncate()
            raise

    def commit(self, memories: Seq[PagedMemory]) -> None:
        """The pass over `memories` is complete: its tokens are now their sequences' past."""
        try:
            for memory in memories:
                memory.commit()
        except BaseException:  # half a commit has lost old rows already; a whole one may be repeated
            for memory in memories:
                memory.commit()
            raise

    def abort(self, memories: Seq[PagedMemory]) -> None:
        """The pass over `memories` did not complete: their sequences stay as they were before it."""
        for memory in memories:
            memory.abort()

    def check_room(self, sequences: Seq[Sequence], counts: Seq[int]) -> tuple[list[bool], list[int]]:
        """For each sequence, whether its last block must be copied and how many blocks its tokens add.

        Raises ValueError for sequences and counts that cannot be extended, PoolFull when too few blocks are free.
        """
        for sequence in sequences:
            if sequence.pool is not self or sequence.closed:
                raise ValueError("a sequence is closed or belongs to another pool; open it in this one")
        if len(set(map(id, sequences))) != len(sequences):
            raise ValueError("a sequence appears twice; give all its tokens at once")
        copies = self._copies(sequences)
        growth = [sequence._growth(count) for sequence, count in zip(sequences, counts, strict=True)]
        self.blocks.check_free(sum(copies) + sum(growth))
        return copies, growth

    def _copies(self, sequences: Seq[Sequence]) -> list[bool]:
        """Whether each, extended in this order, writes to a block that others still hold: the last one keeps it."""
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
            for name, kind in self._kinds.items():
                for layer in self._storage[name]:
                    for block in freed:
                        kind.record.poison(layer[block])

    def _copy_block(self, source: int, target: int) -> None:
        for storage in self._storage.values():
            storage[:, target] = storage[:, source]

    def rows_of(self, kind: str, layer: int) -> tuple[Tensor, RowKind]:
        """A layer's storage as [all rows, record width], and what kind of rows it holds."""
        row_kind = self._kinds[kind]
        return self._storage[kind][row_kind.layers.index(layer)].flatten(0, 1), row_kind

    @property
    def num_bytes(self) -> int:
        """Bytes allocated: the paged storage and the states of the open sequences."""
        paged = sum(t.numel() * t.element_size() for t in self._storage.values())
        return paged + sum(sequence.state.num_bytes for sequence in self.sequences)

    def check_integrity(self) -> None:
        """Raises AssertionError unless every block is either free or held exactly as the block tables say."""
        for sequence in self.sequences:
            assert not sequence.closed
            assert len(sequence.table) == self.layout.num_blocks(sequence.num_tokens), "table and length disagree"
        self.blocks.check_integrity(sequence.table for sequence in self.sequences)


class Sequence:
    """One sequence's place in the pool. Made by `Pool.open` and `fork`; `close` gives its blocks back."""

    def __init__(self, pool: Pool, state: SequenceState):
        self.pool = pool
        self.state = state
        self.table: list[int] = []
        self.num_tokens = 0
        self.kept: dict[object, object] = {}  # what a reader made of the table and the state: gone when they change
        self._table: tuple[list[int], Tensor] | None = None
        self._high = 0  # the rings hold rows up to this position: it bounds how far back a rewind may go
        self.closed = False

    @property
    def table_tensor(self) -> Tensor:
        """The block table, int64 [blocks]: the same tensor while no block comes or goes."""
        if self._table is None or self._table[0] != self.table:
            self._table = list(self.table), torch.tensor(self.table, dtype=torch.int64, device=self.pool.device)
            self.kept.clear()
        return self._table[1]

    @property
    def cache_bytes(self) -> int:
        """Bytes this sequence holds: its blocks (shared ones counted in full) and its state."""
        return len(self.table) * self.pool.layout.block_bytes + self.state.num_bytes

    def fork(self) -> Sequence:
        """A second sequence with the same past; blocks are shared until one of the two writes to them."""
        self._check_open()
        other = Sequence(self.pool, self.state.copy())
        other.table, other.num_tokens, other._high = list(self.table), self.num_tokens, self._high
        self.pool.blocks.share(self.table)
        return self.pool._adopt(other)

    def rewind(self, num_tokens: int) -> None:
        """Forget the last `num_tokens` tokens, at most `REWIND` behind the furthest the sequence has been."""
        self._check_open()
        allowed = min(self.num_tokens, max(0, REWIND - (self._high - self.num_tokens)))
        if not 0 <= num_tokens <= allowed:
            raise ValueError(
                f"rewind({num_tokens}) is not allowed; expected 0 to {allowed} "
                f"({self.num_tokens} tokens, and at most {REWIND} behind position {self._high})"
            )
        self.num_tokens -= num_tokens
        self._truncate()

    def close(self) -> None:
        """Give everything back. Closing twice is an error."""
        self._check_open()
        self.pool._free(self.table)
        self.table = []
        self.closed = True
        self.pool.sequences.remove(self)
        if self.pool.poison:
            self.state.poison()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("this sequence is closed; open another one")

    def _truncate(self) -> None:
        keep = self.pool.layout.num_blocks(self.num_tokens)
        self.pool._free(self.table[keep:])
        del self.table[keep:]

    def _growth(self, count: int) -> int:
        """Blocks to add for `count` more tokens."""
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
        """Copy on write: a new block takes the place of the last one, which others may go on reading."""
        self.table += self.pool.blocks.allocate(1)  # at the end until it is complete: there `_truncate` finds it
        self.pool._copy_block(self.table[-2], self.table[-1])
        self.pool._free([self.table.pop(-2)])


class PagedMemory(Memory):
    """One pass of `length` new tokens over a sequence. Ends with `commit` or `abort`."""

    def __init__(self, sequence: Sequence, length: int):
        self.sequence = sequence
        self.pool = sequence.pool
        self.start, self.length = sequence.num_tokens, length
        self._table = sequence.table_tensor
        self._tail_layers = {kind.name: kind.layers for kind in self.pool.layout.tail_kinds}
        self._pending: list[tuple[Tensor, Tensor]] = []
        self.staged: object = None  # what native calls of this pass point into
        forms = {kind.record.form for kind in self.pool.layout.row_kinds}
        self.has_rows = forms <= set(native.ROW_FORMS) and self.pool.device.type == "cpu"

    def window(self, layer: int, kv: Tensor) -> Tensor:
        ring, record = self.sequence.state.windows[layer], self.pool.layout.records.kv
        self._store_at_commit(ring, record.encode(kv[-len(ring) :]))
        first = max(0, self.start - self.pool.layout.config.sliding_window + 1)
        return torch.cat((record.decode(ring_rows(ring, first, self.start)).to(kv.dtype), kv))

    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        ring = self.sequence.state.tails[kind][self._tail_layers[kind].index(layer)]
        self._store_at_commit(ring, rows)
        return torch.cat((ring_rows(ring, first, self.start), rows)) if first < self.start else rows

    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        storage, row_kind = self.pool.rows_of(kind, layer)
        numbers = torch.arange(first, first + len(rows), device=self.pool.device)
        storage[self._physical(numbers, row_kind.rows)] = row_kind.record.encode(rows)

    def block(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        return self._read(kind, layer, torch.arange(first, end, device=self.pool.device))

    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        if len(index) == 1:
            return self._read(kind, layer, index[0])[None]
        entries, places = torch.unique(index, return_inverse=True)  # queries share entries: each is decoded once
        return self._read(kind, layer, entries).index_select(0, places.flatten()).unflatten(0, index.shape)

    def _read(self, kind: str, layer: int, numbers: Tensor) -> Tensor:
        """Entries `numbers` [m]: [m, dim]."""
        storage, row_kind = self.pool.rows_of(kind, layer)
        return row_kind.record.decode(storage.index_select(0, self._physical(numbers, row_kind.rows)))

    def _physical(self, numbers: Tensor, in_block: int) -> Tensor:
        """Rows of the storage that hold the entries `numbers`, with `in_block` of them to a block."""
        return self._table[numbers // in_block] * in_block + numbers % in_block

    # -- the same rows where they lie, for the kernels ---------------------------------------------------------------

    def window_rows(self, layer: int) -> RowSource:
        """A layer's window ring: the row of a position is that modulo the ring's length."""
        return self._source(self.pool.layout.records.kv, self.sequence.state.windows[layer])

    def tail_rows(self, kind: str, layer: int) -> Tensor:
        """A compressor's ring [rows, 2, width]."""
        return self.sequence.state.tails[kind][self._tail_layers[kind].index(layer)]

    def rows(self, kind: str, layer: int) -> RowSource:
        """A layer's entries, those of this pass among them."""
        storage, row_kind = self.pool.rows_of(kind, layer)
        return self._source(row_kind.record, storage, self._table, row_kind.rows)

    def _source(self, record: Record, storage: Tensor, table: Tensor | None = None, in_block: int = 1) -> RowSource:
        rope_dim = self.pool.layout.config.qk_rope_head_dim
        return RowSource(record.form, record.dim, rope_dim, storage, table, in_block)

    def keep(self, ring: Tensor) -> Tensor:
        """Room for the pass's last rows of a ring, oldest first: at the commit they go into it."""
        rows = torch.empty(min(self.length, len(ring)), *ring.shape[1:], dtype=ring.dtype, device=ring.device)
        self._pending.append((ring, rows))
        return rows

    def _store_at_commit(self, ring: Tensor, rows: Tensor) -> None:
        self._pending.append((ring, rows[-len(ring) :].clone()))  # a view would keep the whole pass's rows

    def commit(self) -> None:
        """The pass is complete: its tokens are now the sequence's past. Doing it again changes nothing."""
        for ring, rows in self._pending:
            ring_store(ring, rows, self.end)
        self.sequence.num_tokens = self.end
        self.sequence._high = max(self.sequence._high, self.end)

    def abort(self) -> None:
        """The pass did not complete: the sequence stays as it was before it."""
        self.sequence._truncate()
