"""The computation of routed experts: here, over ranks (`ranked.py`), or in a kernel of a GPU (`gpu.py`).

h [n, hidden], weights [n, k], ids [n, k]  ->  for each chosen expert, in ascending order: its rows together
                                           ->  each row's k results, summed
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from wavefold import ops
from wavefold.experts.store import ExpertStore, ExpertWeights
from wavefold.ops import Arithmetic
from wavefold.quant import Weight

Linear = Callable[[Tensor, Weight, Arithmetic], Tensor]
Adapted = Callable[[int, Tensor, ExpertWeights], Linear]
"""Returns what multiplies with the matrices of an expert: its number, rows int64 [m] of a pass, its weights."""


class ExpertCompute(ABC):
    """Computes the routed experts of all layers with the weights of `store`."""

    takes_views = False
    """True if the layer's native call may compute the experts itself, from views of `store`."""
    on_chosen: Callable[[int, Tensor], None] | None = None
    """Is told each layer and the ids [n, k] that its router chose, in every pass. `Transformer.tell_chosen` sets it."""

    def __init__(self, store: ExpertStore, arithmetic: Arithmetic, limit: float):
        """`limit` is the clamp of SwiGLU's inputs."""
        self.store, self.arithmetic, self.limit = store, arithmetic, limit

    @abstractmethod
    def routed(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """Returns the sum of each row's experts: h [n, hidden], weights [n, k] float32, ids [n, k] -> [n, hidden]."""

    def routed_beside(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, beside: Callable[[], None]
    ) -> Tensor:  # fmt: skip
        """Returns `routed`. `beside`, work that needs no routed expert, runs once the first reads are under way."""
        beside()
        return self.routed(layer, h, weights, ids)

    def end_pass(self) -> None:  # noqa: B027  in one process a pass has failed where it failed
        """Ends a pass of new tokens through all layers. Raises ValueError, on every rank, if one had failed in it."""

    def with_shared(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, shared: Tensor) -> Tensor:
        """Returns `routed` plus the shared expert's output `shared` [n, hidden], added in wide dtype, in h's dtype."""
        out = self.routed(layer, h, weights, ids).to(self.arithmetic.accumulate)
        return (out + shared.to(out.dtype)).to(h.dtype)

    def over(self, store: ExpertStore) -> ExpertCompute:
        """Returns the same computation with the weights of another store."""
        other = copy.copy(self)
        other.store = store
        return other


class LocalExperts(ExpertCompute):
    """Computes in this process, one expert after the other."""

    takes_views = True

    def routed(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, adapted: Adapted | None = None
    ) -> Tensor:  # fmt: skip
        """Accumulates in ascending order of expert. The result has the accumulation dtype.

        `adapted` multiplies in place of `ops.linear`: it is told the expert and the rows of h.
        """
        out = h.new_zeros(h.shape, dtype=self.arithmetic.accumulate)
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=self.store.table.num_experts).tolist()
        chosen = [expert for expert, count in enumerate(counts) if count]
        first = 0
        for view in self.store.groups(layer, chosen):
            for expert in view:
                slots = order[first : first + counts[expert]]
                first += counts[expert]
                rows = (slots // ids.shape[1]).to(h.device)
                route = weights.flatten()[slots, None]
                if adapted is None:
                    y = ops.expert(h[rows], *view[expert], route, self.limit, self.arithmetic)
                else:
                    linear = adapted(expert, rows, view[expert])
                    y = ops.reference_expert(h[rows], *view[expert], route, self.limit, self.arithmetic, linear)
                out.index_add_(0, rows, y.to(out.dtype))
        return out

    def with_shared(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, shared: Tensor) -> Tensor:
        """Training with the CPU kernels moves each row once to all experts and back, and sums it with `shared`."""
        if not ops.moves_rows(h, self.arithmetic):
            return super().with_shared(layer, h, weights, ids, shared)
        rows = ops.ExpertRows(ids, self.store.table.num_experts)
        with self.store.acquire(layer, rows.experts) as view:
            matrices = [view[expert] for expert in rows.experts]
            outputs = ops.experts(*rows.take(h, weights), rows.counts, matrices, self.limit, self.arithmetic)
        return rows.sum(outputs, shared)
