"""A layer's view of its sequence's past while a span of new tokens passes through it.

Two kinds: `FreshView` for a sequence that begins and ends with the pass (training, small inputs; gradients flow
through it), and `PagedView` over the pool. The model knows only this interface.

    window rows      kv of the last tokens, one row a token
    tail rows        compressor projections of the last tokens, one row a token
    entries, keys    one row for each complete block of `ratio` tokens, for all of the past
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from wavefold.ops import Adapter


class View(ABC):
    """One sequence during one pass. `start` tokens lie before the pass, `length` tokens in it.

    Rows go in and out in activation dtypes. [n, ...] are rows of the pass's tokens, oldest first.
    """

    start: int
    length: int
    adapter: Adapter | None = None
    """What the model's matrices are adapted by for these tokens; None: the model alone."""
    has_rows = False
    """True if the rows lie in a pool's storage, in records that the CPU kernels read."""

    @property
    def end(self) -> int:
        return self.start + self.length

    @abstractmethod
    def window(self, layer: int, kv: Tensor) -> Tensor:
        """Takes the new rows kv [length, c]. Returns them behind the h <= 127 rows before them: [h + length, c]."""

    @abstractmethod
    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        """Takes rows [length, 2, width] of a compressor. Returns the rows of positions first .. end, first <= start."""

    @abstractmethod
    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        """Stores rows [m, dim] as entries first .. first + m."""

    @abstractmethod
    def entries(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        """Returns entries first .. end as [end - first, dim]."""

    def forget(self) -> None:  # noqa: B027  rows that outlast the pass stay
        """Drops the rows of this pass. Later layers read only their own."""

    @abstractmethod
    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        """Returns entries by number: index [n, k], each an existing entry, -> [n, k, dim]."""


class FreshView(View):
    """A sequence without a past: this pass computes all of its rows."""

    def __init__(self, length: int):
        self.start, self.length = 0, length
        self._rows: dict[tuple[str, int], Tensor] = {}

    def window(self, layer: int, kv: Tensor) -> Tensor:
        return kv

    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        assert first == 0, first
        return rows

    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        assert first == 0, first
        self._rows[kind, layer] = rows

    def entries(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        return self._rows[kind, layer][first:end]

    def forget(self) -> None:
        """Drops all rows. Later layers read only their own."""
        self._rows.clear()

    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        rows = self._rows[kind, layer]
        return torch.index_select(rows, 0, index.flatten()).unflatten(0, index.shape)
