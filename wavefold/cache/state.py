"""The fixed part of a sequence's cache: window rings and compressor tails, sized by the model and not by the length."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.cache.layout import CacheLayout


def ring_rows(ring: Tensor, first: int, end: int) -> Tensor:
    """The rows of positions first .. end, oldest first. They must still be in the ring (at most len(ring) of them)."""
    assert end - first <= len(ring), (first, end, len(ring))
    return ring[torch.arange(first, end, device=ring.device) % len(ring)]


def ring_store(ring: Tensor, rows: Tensor, end: int) -> None:
    """Put `rows`, the last of which has position end - 1, into the ring; what does not fit was the oldest."""
    rows = rows[-len(ring) :]
    ring[torch.arange(end - len(rows), end, device=ring.device) % len(ring)] = rows


class SequenceState:
    """One sequence's rings: `windows` [layers, rows, record], and for each kind of tail [layers, rows, 2, width]."""

    def __init__(self, layout: CacheLayout, device: torch.device):
        self.layout = layout
        self.windows = layout.records.kv.empty(len(layout.main_layers), layout.window_rows, device=device)
        self.tails = {
            kind.name: torch.empty(len(kind.layers), kind.rows, 2, kind.width, dtype=torch.float32, device=device)
            for kind in layout.tail_kinds
        }

    def copy(self) -> SequenceState:
        """A state of its own with the same rows."""
        other = object.__new__(SequenceState)
        other.layout = self.layout
        other.windows = self.windows.clone()
        other.tails = {name: tail.clone() for name, tail in self.tails.items()}
        return other

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.windows, *self.tails.values()))

    def poison(self) -> None:
        """Overwrite every row, so that a read of what was never written shows."""
        self.layout.records.kv.poison(self.windows)
        for tail in self.tails.values():
            tail.fill_(torch.nan)
