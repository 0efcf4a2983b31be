"""Routed experts over ranks: each rank has a share of the experts. Tokens reach them in waves (`wavefold/waves`).

In serving, attention and everything else is replicated: every rank runs the same tokens, so rows need not travel. An
expert's output for a row goes to the rank that owns the row, and the row's sum from there to all ranks. In training
each rank has different tokens, and rows travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from wavefold import ops
from wavefold.experts.compute import ExpertCompute
from wavefold.waves.exchange import Settings
from wavefold.waves.experts import Pass, wave_experts
from wavefold.waves.transport import Transport, run_alone

FEW_ROWS = 32
"""Fewer rows go in one wave. Waves hide travel time and cost messages."""


class RankedExperts(ExpertCompute):
    """The store needs only this rank's experts."""

    def __init__(self, local: ExpertCompute, transport: Transport, settings: Settings, same_rows: bool):
        """Store, arithmetic and limit are those of `local`. `same_rows`: every rank runs the same tokens."""
        super().__init__(local.store, local.arithmetic, local.limit)
        self._transport, self._settings, self._same_rows = transport, settings, same_rows
        self._at_once = replace(settings, waves=replace(settings.waves, num_waves=1, ring=0))

    @property
    def experts_here(self) -> range:
        """This rank's experts, in every layer."""
        return self._settings.waves.experts_of(self._transport.rank)

    def routed(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """The sum of each row's experts: h [n, hidden], weights [n, k] float32, ids [n, k] -> [n, hidden].

        All ranks call it, and its backward pass, for the same layers in the same order. Raises RankLost where another
        rank is gone.
        """
        if self._same_rows:
            return self._serve(layer, h, weights, ids)
        with self.store.acquire(layer, self.experts_here) as view:
            stored = {expert: view[expert] for expert in self.experts_here}

            def compute(expert: int, rows: Tensor, values: Sequence[Tensor], routes: Tensor) -> Tensor:
                w1, w2, w3 = (
                    weight._replace(codes=codes) for weight, codes in zip(stored[expert], values, strict=True)
                )
                return ops.expert(rows, w1, w2, w3, routes, self.limit, self.arithmetic)

            one = Pass(self._transport, self._settings, compute)
            experts = {expert: [weight.codes for weight in weights_of] for expert, weights_of in stored.items()}
            return wave_experts(one, run_alone, h, weights, ids, experts)

    def _serve(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        def compute(expert: int, rows: Tensor, _: Sequence[Tensor], routes: Tensor) -> Tensor:
            with self.store.acquire(layer, [expert]) as view:
                return ops.expert(rows, *view[expert], routes.to(rows.device), self.limit, self.arithmetic)

        settings = self._settings if len(h) >= FEW_ROWS else self._at_once
        one = Pass(self._transport, settings, compute)
        return run_alone(one.forward_shared(h, weights, ids, dict.fromkeys(self.experts_here, ())))
