"""The fixed part of a sequence's cache: window rings and compressor tails, whose size does not depend on the length.

one buffer    | tails of each kind [layers, rows, 2, width] | windows [layers, rows, record] |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavefold.cache.layout import FLOAT_BYTES, CacheLayout
from wavefold.cache.storage import block_storage


def ring_rows(ring: Tensor, first: int, end: int) -> Tensor:
    """Returns the rows of positions first .. end, oldest first: at most len(ring), which must still be in the ring."""
    assert end - first <= len(ring), (first, end, len(ring))
    return ring[torch.arange(first, end, device=ring.device) % len(ring)]


def ring_store(ring: Tensor, rows: Tensor, end: int) -> None:
    """Puts `rows` into the ring. The last row has position end - 1. The oldest rows that do not fit are dropped."""
    rows = rows[-len(ring) :]
    ring[torch.arange(end - len(rows), end, device=ring.device) % len(ring)] = rows


class SequenceState:
    """One sequence's rings in one `buffer`, uint8 [state_bytes], whose content is undefined at first.

    `windows` [layers, rows, record] and, for each kind of tail, `tails[kind]` [layers, rows, 2, width] are views of it.
    """

    def __init__(self, layout: CacheLayout, device: torch.device, buffer: Tensor | None = None):
        self.layout = layout
        self.buffer = block_storage(1, layout.state_bytes, device)[0] if buffer is None else buffer
        self.tails: dict[str, Tensor] = {}
        offset = 0
        for kind in layout.tail_kinds:
            end = offset + math.prod(kind.shape) * FLOAT_BYTES
            self.tails[kind.name] = self.buffer[offset:end].view(torch.float32).view(kind.shape)
            offset = end
        record, shape = layout.records.kv, (len(layout.ring_layers), layout.window_rows, -1)
        self.windows = self.buffer[offset:].view(record.dtype).view(shape)

    def rings(self, mtp: bool) -> list[Tensor]:
        """The rings of the main layers or of the MTP layers, [layers, rows, ...] of each kind."""
        num_main = self.layout.config.num_hidden_layers
        return [self.windows[num_main:]] if mtp else [self.windows[:num_main], *self.tails.values()]

    def copy(self, into: Tensor | None = None) -> SequenceState:
        """Returns a copy of the state, in a buffer of its own: `into`, unless None."""
        other = SequenceState(self.layout, self.buffer.device, into)
        other.buffer.copy_(self.buffer)
        return other

    def take(self, staged: SequenceState, num_tokens: int, end: int, mtp: bool) -> None:
        """Puts the last rows of a pass of `num_tokens` tokens that ends at position `end` into the rings.

        They are those of the MTP layers or of the main layers: the others' stay. `staged` has these rows, as many as a
        ring holds, oldest first from each ring's beginning.
        """
        for ring, rows in zip(self.rings(mtp), staged.rings(mtp), strict=True):
            ring_store(ring.transpose(0, 1), rows[:, :num_tokens].transpose(0, 1), end)  # rows first, all layers

    @property
    def num_bytes(self) -> int:
        return self.buffer.nbytes

    def poison(self) -> None:
        """Overwrites every row, so that a read before the first write shows."""
        self.buffer.fill_(0xFF)
