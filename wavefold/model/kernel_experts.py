"""Routed experts on a Hopper GPU: each layer's in one launch of the fused kernel, a prompt's and a step's alike.

    few rows an expert (decode)     tiles of 16 rows, deep loads: as fast as weights can be read
    many (a prompt)                 tiles of 64

The kernel is the one of several ranks (`parallel/fused`), here with one. Weights stay in the official bytes: the
model's own parameters become views of each layer's stack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavefold.config import ModelConfig
from wavefold.model.expert_store import ExpertStore, ExpertView, RoutingExperts
from wavefold.ops import Arithmetic
from wavefold.ops.tilelang.shape import Shape
from wavefold.parallel.fused.layer import Rank
from wavefold.parallel.waves import Waves

if TYPE_CHECKING:
    from wavefold.model.transformer import Transformer

Run = Callable[[Mapping[str, Tensor | int]], None]
"""Launches a kernel with its arguments by name."""
FEW_ROWS = 16
"""Of an expert, on average: up to so many are decode's business."""


def shapes(config: ModelConfig) -> tuple[Shape, Shape]:
    """For few rows an expert and for many. Raises ValueError for widths that the kernels do not have."""
    widths = config.hidden_size, config.moe_intermediate_size
    slots, limit = config.num_experts_per_tok, config.swiglu_limit
    return Shape(*widths, 16, slots, limit, stages=6), Shape(*widths, 64, slots, limit, stages=3)


class KernelExperts(RoutingExperts):
    """All routed experts of a model on one device. `launch` compiles the kernel of a shape."""

    def __init__(self, model: Transformer, launch: Callable[[Shape], Run]):
        """Raises ValueError, the model as it was, where its experts or arithmetic are not what the kernels compute."""
        config = model.config
        if not model.arithmetic.released:
            raise ValueError(
                f"{model.arithmetic} arithmetic; the kernels of routed experts compute released arithmetic"
            )
        self._store: ExpertStore = model.store
        self._launcher = functools.cache(launch)
        self._shapes = shapes(config)
        self._waves = Waves(config.n_routed_experts)
        self._ranks: dict[Shape, Rank] = {}
        self._device = model.device
        self._weights = self._adopt(model)

    def _adopt(self, model: Transformer) -> dict[int, dict[str, Tensor]]:
        """Each layer's experts' weights, one after another; the model's parameters become views of them."""
        rank = Rank(0, self._shapes[0], self._waves, 1, device=self._device)
        stacks = {}
        for moe in (block.ffn for block in model.blocks):
            experts = [moe.expert_weights(number) for number in range(len(moe.experts))]
            if any(weights.form != "fp4" for weights in experts):
                raise ValueError(f"layer {moe.layer} has experts in {experts[0].form}; expected fp4")
            stack = rank.weights([tuple(weights) for weights in experts])  # type: ignore[misc]
            for number, weights in enumerate(experts):
                for name, (codes, scales) in zip(weights._fields, weights, strict=True):
                    codes.data = stack[name][number].view(codes.dtype)
                    assert scales is not None
                    scales.data = stack[f"{name}_scale"][number].view(torch.uint8).view(scales.dtype)
            stacks[moe.layer] = stack
        return stacks

    def view(self, layer: int, ids: Sequence[int]) -> ExpertView:
        return self._store.view(layer, ids)

    def _release(self, layer: int, ids: Sequence[int]) -> None:
        """Views are the other store's."""

    def routed(
        self, layer: int, h: Tensor, weights: Tensor, ids: Tensor, limit: float, arithmetic: Arithmetic
    ) -> Tensor:
        """One launch: h [n, hidden] bfloat16, weights [n, k] float32, ids [n, k] -> [n, hidden] bfloat16."""
        few, many = self._shapes
        if not arithmetic.released or limit != few.limit:
            raise ValueError(f"{arithmetic} arithmetic, limit {limit}; expected released, {few.limit}")
        shape = few if ids.numel() <= FEW_ROWS * self._waves.num_experts else many
        if (rank := self._ranks.get(shape)) is None or rank.max_tokens < len(h):
            room = 1 << max(4, (len(h) - 1).bit_length())
            rank = self._ranks[shape] = Rank(0, shape, self._waves, room, device=self._device)
        given = rank.prepare(h.contiguous(), [ids], [weights], self._weights[layer], [rank.pointers()])
        self._launcher(shape)(given)
        return given["out"]  # type: ignore[return-value]


def use_kernels(model: Transformer) -> None:
    """Let the model's routed experts run on the kernels of its GPU.

    Raises ValueError that says why they cannot: another chip, no TileLang or nvcc, other formats or widths.
    """
    from wavefold.ops.tilelang.launch import launcher, why_not

    if reason := why_not(model.device):
        raise ValueError(reason)
    model.experts = KernelExperts(model, lambda shape: launcher(shape, model.device))
