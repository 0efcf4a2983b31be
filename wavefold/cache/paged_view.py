"""A pass over a sequence in a pool: reads its blocks and rings, writes new rows, commits at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavefold.cache.record import Record
from wavefold.cache.sequence import Sequence
from wavefold.cache.state import SequenceState, ring_rows, ring_store
from wavefold.cache.tip import Tip
from wavefold.cache.view import View
from wavefold.ops import native
from wavefold.ops.native import RowSource

NATIVE_FORMS = frozenset(native.ROW_FORMS)
RingOf = Callable[[SequenceState], Tensor]
"""Returns a layer's ring in a state."""


class PagedView(View):
    """One pass of `length` new tokens over a sequence. Ends with `commit` or `abort`."""

    def __init__(self, sequence: Sequence, length: int, mtp: bool = False):
        """With `mtp` the pass goes through the MTP layers, which count their tokens from `mtp_first` on."""
        self.sequence = sequence
        self.pool = sequence.pool
        self.adapter = sequence.adapter
        past = sequence.num_mtp_tokens - sequence.mtp_first if mtp else sequence.num_tokens
        self.start, self.length = past, length
        self.places = sequence.places
        self._mtp = mtp
        mark = sequence.mark - past
        self.mark = mark if 0 < mark < length and not mtp else 0
        """The first tokens of the pass up to the sequence's mark. 0: it does not go over one."""
        self._pending: list[tuple[RingOf, Tensor]] = []
        self._pending_mark: list[tuple[RingOf, Tensor]] = []
        self._staged: SequenceState | None = None
        self._staged_mark: SequenceState | None = None
        self._tip: Tip | None = None
        records = self.pool.layout.records
        self.has_rows = {records.kv.form, records.index.form} <= NATIVE_FORMS and self.pool.device.type == "cpu"

    def window(self, layer: int, kv: Tensor) -> Tensor:
        ring, record = self.sequence.state.windows[layer], self.pool.layout.records.kv
        self._store_at_commit(lambda state: state.windows[layer], kv, record)
        first = max(0, self.start - self.pool.layout.config.sliding_window + 1)
        return torch.cat((record.decode(ring_rows(ring, first, self.start)).to(kv.dtype), kv))

    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        ring, number = self.tail_rows(kind, layer), self._tail_number(kind, layer)
        self._store_at_commit(lambda state: state.tails[kind][number], rows)
        return torch.cat((ring_rows(ring, first, self.start), rows)) if first < self.start else rows

    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        storage, row_kind = self.pool.rows_of(kind, layer)
        numbers = torch.arange(first, first + len(rows), device=self.pool.device)
        storage[self._physical(numbers, row_kind.rows)] = row_kind.record.encode(rows)

    def entries(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        return self._read(kind, layer, torch.arange(first, end, device=self.pool.device))

    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        if len(index) == 1:
            return self._read(kind, layer, index[0])[None]
        entries, places = torch.unique(index, return_inverse=True)  # queries share entries: each is decoded once
        return self._read(kind, layer, entries).index_select(0, places.flatten()).unflatten(0, index.shape)

    def _read(self, kind: str, layer: int, numbers: Tensor) -> Tensor:
        """Returns the entries `numbers` [m] as [m, dim]."""
        storage, row_kind = self.pool.rows_of(kind, layer)
        return row_kind.record.decode(storage[self._physical(numbers, row_kind.rows)])

    def _physical(self, numbers: Tensor, in_block: int) -> tuple[Tensor, Tensor]:
        """Returns the storage block and the row in it of each entry in `numbers`. A block has `in_block` rows."""
        return self.places.table[numbers // in_block], numbers % in_block

    # -- the same rows where they lie, for the kernels ---------------------------------------------------------------

    def window_rows(self, layer: int) -> RowSource:
        """A layer's window ring. The row of a position is the position modulo the ring's length."""
        return self._source(self.pool.layout.records.kv, self.sequence.state.windows[layer])

    def tail_rows(self, kind: str, layer: int) -> Tensor:
        """A compressor's ring [rows, 2, width]."""
        return self.sequence.state.tails[kind][self._tail_number(kind, layer)]

    def _tail_number(self, kind: str, layer: int) -> int:
        return next(tail for tail in self.pool.layout.tail_kinds if tail.name == kind).layers.index(layer)

    def rows(self, kind: str, layer: int) -> RowSource:
        """A layer's entries, including those of this pass."""
        storage, row_kind = self.pool.rows_of(kind, layer)
        return self._source(row_kind.record, storage, self.places.table, row_kind.rows)

    def _source(self, record: Record, storage: Tensor, table: Tensor | None = None, in_block: int = 1) -> RowSource:
        rope_dim = self.pool.layout.config.qk_rope_head_dim
        return RowSource(record.form, record.dim, rope_dim, storage, table, in_block)

    def stage(self) -> SequenceState | None:
        """Returns the state that holds the pass's last rows of all rings until the commit, or None.

        None: the rows go into the rings at once, as in passes of at most `draft_tokens` tokens. The rings have
        so many rows more than readers and a rewind go back to. In the returned state each ring's rows lie oldest
        first from its beginning, as many as the ring holds.
        """
        if self.length <= self.pool.layout.draft_tokens:
            self.pool.layout.check_in_place(self.length)
            return None
        self._staged = SequenceState(self.pool.layout, self.pool.device)
        return self._staged

    def stage_mark(self) -> SequenceState | None:
        """Returns the state that holds the last rows of the first `mark` tokens until then; None without a mark."""
        if self.mark:
            self._staged_mark = SequenceState(self.pool.layout, self.pool.device)
        return self._staged_mark

    def _store_at_commit(self, ring_of: RingOf, rows: Tensor, record: Record | None = None) -> None:
        """Puts rows, as a `record` has them, into a ring when the pass is complete."""
        size = len(ring_of(self.sequence.state))
        for pending, part in ((self._pending, rows), (self._pending_mark, rows[: self.mark])):
            last = part[-size:]
            if len(last):  # cloned: a view would keep the whole pass's rows
                pending.append((ring_of, last.clone() if record is None else record.encode(last).clone()))

    def take_mark(self) -> None:
        """Makes the tip at the sequence's mark, if the pass goes over it, of the rings as they are before `commit`."""
        if not self.mark:
            return
        end, state = self.start + self.mark, self.sequence.state.copy(self.pool.spare())
        for ring_of, rows in self._pending_mark:
            ring_store(ring_of(state), rows, end)
        if self._staged_mark is not None:
            state.take(self._staged_mark, self.mark, end, mtp=False)
        self._tip = self.sequence.tip_ahead(end, state)
        self._staged_mark = None

    def commit(self) -> None:
        """The pass is complete: its tokens are now the sequence's past. A second call changes nothing."""
        self.sequence.marked = self._tip
        for ring_of, rows in self._pending:
            ring_store(ring_of(self.sequence.state), rows, self.end)
        if self._staged is not None:
            self.sequence.state.take(self._staged, self.length, self.end, self._mtp)
        if self._mtp:
            self.sequence.num_mtp_tokens = self.sequence.mtp_first + self.end
            return
        self.sequence.num_tokens = self.end
        self.sequence._high = max(self.sequence._high, self.end)

    def abort(self) -> None:
        """The pass did not complete: the sequence stays as it was before it."""
        self.sequence._truncate()
