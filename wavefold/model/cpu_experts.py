"""The experts of a layer on the CPU kernels, computed as their store gives them.

    few tokens     each expert as soon as it is here, onto a sum of its own; the sums are added in order at the end
    many tokens    in order, as far as they are here, onto one sum

Both have the bits of one call for all of them: an expert's output is rounded before it is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wavefold.experts import ExpertStore
from wavefold.ops import native

FEW_TOKENS = 16
"""Sums of a token's experts take little more memory than the token's row up to this many."""
LAST = 8
"""Of many experts, those that are left when the next layer's are asked for."""
SHARED = -1


@dataclass
class ExpertsCall:
    """buffers.h -> buffers.output: the routed experts that are chosen, then the shared one. `after`: prefetch hints."""

    layer: int
    shared: native.ExpertStruct
    limit: float
    released: bool
    buffers: native.PassBuffers
    after: native.Ranges

    def run(self, store: ExpertStore, look_ahead: Callable[[], None]) -> None:
        """`look_ahead` is called after this layer's reads have begun, before anything is waited for."""
        chosen = self.buffers.distinct_experts()
        if len(self.buffers.h) <= FEW_TOKENS and self._all_once:
            self._as_they_come(store, chosen, look_ahead)
        else:
            self._in_order(store, chosen, look_ahead)

    @property
    def _all_once(self) -> bool:
        """True if no token names an expert twice, as hashed ones may: it would be added twice."""
        ids = self.buffers.chosen.sort(-1).values
        return not (ids[:, 1:] == ids[:, :-1]).any()

    def _as_they_come(self, store: ExpertStore, chosen: list[int], look_ahead: Callable[[], None]) -> None:
        sums: dict[int, Tensor] = {}

        def add(number: int, struct: native.ExpertStruct) -> None:
            sums[number] = torch.zeros(self.buffers.h.shape, dtype=torch.float32)
            self._call([struct], sums[number], False)

        groups = store.groups(self.layer, chosen, in_order=False)
        look_ahead()
        for view in groups:
            for expert in view:
                add(expert, native.expert_struct(expert, view[expert]))
            if SHARED not in sums:  # while others are read
                add(SHARED, self.shared)
            if len(chosen) - len(sums) < LAST < len(chosen):  # before that all reads are this layer's
                look_ahead()
        total = torch.zeros(self.buffers.h.shape, dtype=torch.float32)
        for number in (*chosen, SHARED):
            total += sums[number]
        self.buffers.output.copy_(total)

    def _in_order(self, store: ExpertStore, chosen: list[int], look_ahead: Callable[[], None]) -> None:
        total: Tensor | None = None
        groups, num_left = store.groups(self.layer, chosen), len(chosen)
        if num_left <= LAST:
            look_ahead()
        for view in groups:
            num_left -= len(view)
            if num_left <= LAST:  # before that all reads are this layer's
                look_ahead()
            if num_left and total is None:  # there is another group
                total = torch.zeros(self.buffers.h.shape, dtype=torch.float32)
            structs = [native.expert_struct(expert, view[expert]) for expert in view]
            self._call([*structs, *(() if num_left else (self.shared,))], total, not num_left)

    def _call(self, structs: list[native.ExpertStruct], total: Tensor | None, is_last: bool) -> None:
        native.experts(structs, self.limit, self.released, self.buffers, self.after, total, is_last)
