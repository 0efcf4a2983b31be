"""Routed experts over ranks: each rank has a share of the experts. Tokens reach them in waves (`wavefold/waves`).

In serving, attention and everything else is replicated: every rank runs the same tokens, so rows need not travel. An
expert's output for a row goes to the rank that owns the row, and the row's sum from there to all ranks. In training
each rank has different tokens, and rows travel.

A store that reads its experts is asked once for all of a layer, in the order in which waves compute them. So reads for
later waves go on while earlier ones compute, and results are those of a store that has all experts in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from wavefold import ops
from wavefold.experts.compute import ExpertCompute
from wavefold.experts.store import ExpertView, ExpertWeights
from wavefold.waves.exchange import Settings
from wavefold.waves.experts import Pass, wave_experts
from wavefold.waves.faults import check_faults
from wavefold.waves.transport import Transport, run_alone

Result = TypeVar("Result")

FEW_ROWS = 32
"""Fewer rows go in one wave. Waves hide travel time and cost messages."""


class RankedExperts(ExpertCompute):
    """The store needs only this rank's experts."""

    def __init__(
        self, local: ExpertCompute, transport: Transport, settings: Settings, same_rows: bool, reads: bool = False
    ):  # fmt: skip
        """Store, arithmetic and limit are those of `local`. `same_rows`: every rank runs the same tokens.

        `reads`: a rank's store reads experts as they are needed, which may fail; ranks then compare at the end of each
        pass. All ranks need the same.
        """
        super().__init__(local.store, local.arithmetic, local.limit)
        self._reads = reads
        self._fault: Exception | None = None
        """Why this rank cannot do its part of the present pass."""
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
            return self._serve(layer, h, weights, ids, lambda: None)
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

    def routed_beside(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, beside: Callable[[], None]
    ) -> Tensor:  # fmt: skip
        if self._same_rows:
            return self._serve(layer, h, weights, ids, beside)
        return super().routed_beside(layer, h, weights, ids, beside)

    def end_pass(self) -> None:
        """Raises PassFailed, on all ranks, where one could not read an expert. All ranks call it."""
        if self._reads:
            fault, self._fault = self._fault, None
            run_alone(check_faults(self._transport, fault))

    def _serve(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, beside: Callable[[], None]) -> Tensor:
        chosen = [expert for expert in torch.unique(ids).tolist() if expert in self.experts_here]
        groups = self._unless_failed(lambda: self.store.groups(layer, chosen))
        beside()
        stored = _one_by_one(groups or ())

        def compute(expert: int, rows: Tensor, _: Sequence[Tensor], routes: Tensor) -> Tensor:
            if (found := self._unless_failed(lambda: next(stored))) is None:
                return torch.zeros_like(rows)
            number, matrices = found
            assert number == expert, "waves compute in the order in which the store was asked"
            return ops.expert(rows, *matrices, routes.to(rows.device), self.limit, self.arithmetic)

        with closing(stored):
            settings = self._settings if len(h) >= FEW_ROWS else self._at_once
            one = Pass(self._transport, settings, compute)
            return run_alone(one.forward_shared(h, weights, ids, dict.fromkeys(self.experts_here, ())))

    def _unless_failed(self, step: Callable[[], Result]) -> Result | None:
        """Returns the result of `step`, or None from the first error of a pass on, where ranks compare errors."""
        if self._fault is None:
            try:
                return step()
            except (ValueError, OSError) as error:
                if not self._reads:
                    raise
                self._fault = error
        return None


def _one_by_one(groups: Iterable[ExpertView]) -> Generator[tuple[int, ExpertWeights], None, None]:
    """Yields the experts of all views, each pinned until the next is asked for."""
    for view in groups:
        yield from view.items()
