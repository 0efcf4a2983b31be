"""The mixture of experts: each token goes through its k routed experts and the shared one. Report section 2.1.

router -> (weights, ids) -> for each expert that was chosen, in ascending order: its tokens together -> summed
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import ModelConfig
from wavefold.model.batch import Batch
from wavefold.model.expert_store import ExpertStore, ExpertWeights, RoutingExperts
from wavefold.model.parameters import Linear
from wavefold.model.router import Router
from wavefold.ops import Arithmetic


class Expert(nn.Module):
    """w1 gate, w2 down, w3 up. Routed experts only hold tensors here; they are read through the ExpertStore."""

    def __init__(self, config: ModelConfig, form: str):
        super().__init__()
        hidden, inter = config.hidden_size, config.moe_intermediate_size
        self.w1 = Linear(hidden, inter, form)
        self.w2 = Linear(inter, hidden, form)
        self.w3 = Linear(hidden, inter, form)
        # where its tensors stand: `weights` is asked for every expert of every token, and modules' getattr is slow
        self._slots: tuple[dict[str, Any], ...] = tuple(linear._parameters for linear in (self.w1, self.w2, self.w3))

    def weights(self) -> ExpertWeights:
        w1, w2, w3 = self._slots
        return ExpertWeights((w1["weight"], w1["scale"]), (w2["weight"], w2["scale"]), (w3["weight"], w3["scale"]))


class MoE(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.limit = layer, config.swiglu_limit
        self.gate: nn.Module = Router(config, layer)
        self.experts = nn.ModuleList(Expert(config, config.expert_dtype) for _ in range(config.n_routed_experts))
        self.shared_experts = Expert(config, "fp8")
        self._numbered: dict[str, Expert] = self.experts._modules  # type: ignore[assignment]  # as in Expert

    def expert_weights(self, expert: int) -> ExpertWeights:
        """A routed expert's own tensors, for a store that keeps them resident."""
        return self._numbered[str(expert)].weights()

    def forward(self, h: Tensor, batch: Batch, store: ExpertStore, arithmetic: Arithmetic) -> Tensor:
        """h [n, hidden], normalised (the first layers route by the batch's tokens) -> [n, hidden]."""
        weights, ids = self.gate(h, batch, arithmetic)
        shared = ops.expert(h, *self.shared_experts.weights(), None, self.limit, arithmetic)
        if isinstance(store, RoutingExperts):
            out = store.routed(self.layer, h, weights, ids, self.limit, arithmetic).to(arithmetic.accumulate)
        elif ops.moves_rows(h, arithmetic):
            return self.routed_together(h, weights, ids, shared, store, arithmetic)
        else:
            out = self.routed(h, weights, ids, store, arithmetic)
        return (out + shared.to(out.dtype)).to(h.dtype)

    def routed_together(
        self, h: Tensor, weights: Tensor, ids: Tensor, shared: Tensor, store: ExpertStore, arithmetic: Arithmetic
    ) -> Tensor:
        """`routed` and the shared expert's output, summed: rows are moved once, to all experts and back."""
        rows = ops.ExpertRows(ids, len(self.experts))
        with store.view(self.layer, rows.experts) as view:
            outputs = [
                ops.expert(some, *view[expert], route, self.limit, arithmetic)
                for expert, (some, route) in zip(rows.experts, rows.take(h, weights), strict=True)
            ]
        return rows.sum(outputs, shared)

    def routed(self, h: Tensor, weights: Tensor, ids: Tensor, store: ExpertStore, arithmetic: Arithmetic) -> Tensor:
        """Sum of the routed experts' outputs, accumulated in float32 in ascending order of expert: [n, hidden]."""
        out = h.new_zeros(h.shape, dtype=arithmetic.accumulate)
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=len(self.experts)).tolist()
        chosen = [expert for expert, count in enumerate(counts) if count]
        with store.view(self.layer, chosen) as view:
            first = 0
            for expert in chosen:
                slots = order[first : first + counts[expert]]
                first += counts[expert]
                rows = (slots // ids.shape[1]).to(h.device)
                y = ops.expert(h[rows], *view[expert], weights.flatten()[slots, None], self.limit, arithmetic)
                out.index_add_(0, rows, y.to(out.dtype))
        return out
