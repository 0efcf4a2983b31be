"""Routed experts over ranks: this one has its own, tokens of all of them meet theirs in waves (`wavefold/parallel`).

Serving, attention and all else is replicated: every rank runs the same tokens, so rows need not travel. What an expert
made of a row goes to the rank that answers for it, and the row's sum from there to all. In training each rank has
tokens of its own, and rows travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from wavefold import ops
from wavefold.model.expert_store import ExpertStore, ExpertView, RoutingExperts
from wavefold.ops import Arithmetic
from wavefold.parallel.exchange import Settings
from wavefold.parallel.experts import Pass, wave_experts
from wavefold.parallel.transport import Transport, run_alone

FEW_ROWS = 32
"""Fewer go in one wave: what waves hide is seconds of travel, and what they cost is messages."""


class RankedExperts(RoutingExperts):
    """`store` has this rank's experts, which it is asked for alone."""

    def __init__(self, store: ExpertStore, transport: Transport, settings: Settings, same_rows: bool):
        """`same_rows`: every rank runs the same tokens."""
        self._store, self._transport, self._settings, self._same_rows = store, transport, settings, same_rows
        self._at_once = replace(settings, waves=replace(settings.waves, num_waves=1, ring=0))

    @property
    def mine(self) -> range:
        """This rank's experts, in every layer."""
        return self._settings.waves.experts_of(self._transport.rank)

    def view(self, layer: int, ids: Sequence[int]) -> ExpertView:
        """Raises ValueError for an expert that another rank has."""
        for expert in ids:
            if expert not in self.mine:
                raise ValueError(
                    f"expert {expert} is rank {self._settings.waves.rank_of(expert)}'s; expected {self.mine}"
                )
        return self._store.view(layer, ids)

    def prefetch(self, layer: int, ids: Sequence[int]) -> None:
        self._store.prefetch(layer, [expert for expert in ids if expert in self.mine])

    def _release(self, layer: int, ids: Sequence[int]) -> None:
        """Views are the other store's."""

    def routed(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, limit: float, arithmetic: Arithmetic
    ) -> Tensor:
        """The sum of each row's experts: h [n, hidden], weights [n, k] float32, ids [n, k] -> [n, hidden].

        All ranks call it, for the same layers in the same order, and its backward pass. Raises RankLost where another
        one is gone.
        """
        if self._same_rows:
            return self._serve(layer, h, weights, ids, limit, arithmetic)
        with self.view(layer, self.mine) as view:
            stored = {expert: list(view[expert]) for expert in self.mine}

            def compute(expert: int, rows: Tensor, values: Sequence[Tensor], routes: Tensor) -> Tensor:
                scales = (scale for _, scale in stored[expert])
                w1, w2, w3 = zip(values, scales, strict=True)
                return ops.expert(rows, w1, w2, w3, routes, limit, arithmetic)

            one = Pass(self._transport, self._settings, compute)
            experts = {expert: [weight for weight, _ in parts] for expert, parts in stored.items()}
            return wave_experts(one, run_alone, h, weights, ids, experts)

    def _serve(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, limit: float, arithmetic: Arithmetic
    ) -> Tensor:
        def compute(expert: int, rows: Tensor, _: Sequence[Tensor], routes: Tensor) -> Tensor:
            with self.view(layer, [expert]) as view:
                return ops.expert(rows, *view[expert], routes.to(rows.device), limit, arithmetic)

        settings = self._settings if len(h) >= FEW_ROWS else self._at_once
        one = Pass(self._transport, settings, compute)
        return run_alone(one.forward_shared(h, weights, ids, dict.fromkeys(self.mine, ())))
