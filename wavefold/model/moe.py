"""The mixture of experts: each token goes through its k routed experts and the shared one. Report section 2.1.

router -> (weights, ids) -> the routed experts of each token, wherever they are computed (`wavefold/experts`) -> sum
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from wavefold import ops
from wavefold.config import LayerSpec, ModelConfig
from wavefold.experts import ExpertCompute, ExpertWeights, LocalExperts
from wavefold.experts.compute import Linear as Multiply
from wavefold.model.batch import Batch
from wavefold.model.parameters import Linear
from wavefold.model.router import Router
from wavefold.ops import Arithmetic
from wavefold.quant import Weight

Adapt = Callable[[str, Tensor, Tensor, Arithmetic], Tensor]
"""Returns y [m, out], the product of x [m, in] with the matrix of this name, plus what adapters add."""


class Expert(nn.Module):
    """The shared expert: w1 gate, w2 down, w3 up."""

    def __init__(self, config: ModelConfig, form: str):
        super().__init__()
        hidden, inter = config.hidden_size, config.moe_intermediate_size
        self.w1 = Linear(hidden, inter, form)
        self.w2 = Linear(inter, hidden, form)
        self.w3 = Linear(hidden, inter, form)
        # the tensors' slots: every layer of every token calls `weights`, and getattr of modules is slow
        self._slots: tuple[tuple[Linear, dict[str, Any]], ...] = tuple(
            (linear, linear._parameters) for linear in (self.w1, self.w2, self.w3)
        )

    def weights(self) -> ExpertWeights:
        return ExpertWeights(*(Weight.of(slot["weight"], slot["scale"], linear.packed) for linear, slot in self._slots))


class MoE(nn.Module):
    """Router and shared expert of a layer. The routed experts are no modules: an ExpertCompute computes them."""

    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__()
        self.layer, self.limit = spec.layer, config.swiglu_limit
        self.gate: nn.Module = Router(config, spec)
        self.shared_experts = Expert(config, "fp8")

    def forward(self, h: Tensor, batch: Batch, experts: ExpertCompute, arithmetic: Arithmetic) -> Tensor:
        """h [n, hidden], normalised -> [n, hidden]. Hashed layers route by the batch's tokens."""
        weights, ids = self.gate(h, batch, arithmetic)
        if experts.on_chosen is not None:
            experts.on_chosen(self.layer, ids)
        if batch.watcher is not None:
            batch.watcher.routed(self.layer, weights, ids)
        shared = self._shared(h, batch, arithmetic)
        if any(adapter.num_experts for _, adapter in batch.adapters):
            assert isinstance(experts, LocalExperts), "adapters of routed experts are refused elsewhere"
            out = self._routed(h, weights, ids, batch, experts)
            return (out + shared.to(out.dtype)).to(h.dtype)
        return experts.with_shared(self.layer, h, weights, ids, shared)

    def _shared(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> Tensor:
        """Returns the shared expert's output [n, hidden]."""
        matrices = self.shared_experts.weights()
        if not batch.adapters:
            return ops.expert(h, *matrices, None, self.limit, arithmetic)
        linear = self._adapted("shared_experts", matrices, batch.adapt)
        return ops.reference_expert(h, *matrices, None, self.limit, arithmetic, linear)

    def _routed(
        self, h: Tensor, weights: Tensor, ids: Tensor, batch: Batch, experts: LocalExperts
    ) -> Tensor:  # fmt: skip
        """Returns the routed experts' output [n, hidden], in the accumulation dtype, of rows that have adapters."""

        def adapted(number: int, rows: Tensor, matrices: ExpertWeights) -> Multiply:
            def adapt(name: str, x: Tensor, y: Tensor, arithmetic: Arithmetic) -> Tensor:
                return batch.adapt_rows(name, rows, x, y, arithmetic)

            return self._adapted(f"experts.{number}", matrices, adapt)

        return experts.routed(self.layer, h, weights, ids, adapted)

    def _adapted(self, place: str, matrices: ExpertWeights, adapt: Adapt) -> Multiply:
        """Returns what multiplies with an expert's matrices and adds what adapters add."""
        names = {
            id(matrix): f"layers.{self.layer}.ffn.{place}.{name}"
            for name, matrix in zip(("w1", "w2", "w3"), matrices, strict=True)
        }

        def linear(x: Tensor, matrix: Weight, arithmetic: Arithmetic) -> Tensor:
            return adapt(names[id(matrix)], x, ops.linear(x, matrix, arithmetic), arithmetic)

        return linear
