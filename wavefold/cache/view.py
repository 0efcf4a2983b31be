"""What a layer sees of its sequence's past while a run of new tokens passes through it.

Two kinds: `FreshView` for a sequence that begins and ends with the pass (training, small inputs; gradients flow
through it), and `pool.PagedView` over the pool. The model knows only this interface.

    window rows      kv of the last tokens, one row a token
    tail rows        compressor projections of the last tokens, one row a token
    entries, keys    one row for each complete block of `ratio` tokens, for all of the past
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class View(ABC):
    """One sequence during one pass: `start` tokens before it, `length` tokens in it.

    Rows are given and taken in activation dtypes; [n, ...] are rows of the pass's tokens, oldest first.
    """

    start: int
    length: int
    has_rows = False
    """Whether the rows lie in a pool's storage, in records that the CPU kernels read."""

    @property
    def end(self) -> int:
        return self.start + self.length

    @abstractmethod
    def window(self, layer: int, kv: Tensor) -> Tensor:
        """Take the new rows kv [length, c]; return them behind the (at most 127) rows before: [h + length, c]."""

    @abstractmethod
    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        """Take rows [length, 2, width] of a compressor; return those of positions first .. end, first <= start."""

    @abstractmethod
    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        """Store the entries number first, first + 1, ...: rows [m, dim]."""

    @abstractmethod
    def entries(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        """Entries first .. end: [end - first, dim]."""

    def forget(self) -> None:  # noqa: B027  what outlasts the pass stays
        """Drop the rows of this pass: the layers that are to come read their own alone."""

    @abstractmethod
    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        """Entries by number: index [n, k] (each an existing entry) -> [n, k, dim]."""


class FreshView(View):
    """A sequence without a past: everything it holds was computed in this pass."""

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
        """Drop all rows: the layers that are to come read their own alone."""
        self._rows.clear()

    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        rows = self._rows[kind, layer]
        return torch.index_select(rows, 0, index.flatten()).unflatten(0, index.shape)
