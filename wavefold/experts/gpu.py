"""Routed experts on a Hopper GPU: one launch of the fused kernel for each layer, in prefill and decode.

    few rows an expert (decode)     tiles of 16 rows, deep loads: limited by reading weights
    many (a prompt)                 tiles of 64

The kernel is that of several ranks (`waves/fused`), run with one rank. Weights stay in the official bytes: the store's
tensors become views of each layer's stack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from wavefold.config import ModelConfig
from wavefold.experts.compute import ExpertCompute
from wavefold.experts.store import ExpertWeights
from wavefold.experts.table import FORMS
from wavefold.ops.tilelang.shape import Shape
from wavefold.waves.fused.layer import Rank, Stored
from wavefold.waves.schedule import Waves

Run = Callable[[Mapping[str, Tensor | int]], None]
"""Launches a kernel with its arguments by name."""
FEW_ROWS = 16
"""The largest average number of rows of an expert that counts as few."""


def shapes(config: ModelConfig) -> tuple[Shape, Shape]:
    """Returns the shapes for few and for many rows an expert. Raises ValueError for widths that the kernels lack."""
    widths = config.hidden_size, config.moe_intermediate_size
    slots, limit = config.num_experts_per_tok, config.swiglu_limit
    return Shape(*widths, 16, slots, limit, stages=6), Shape(*widths, 64, slots, limit, stages=3)


class KernelExperts(ExpertCompute):
    """All routed experts of a model on one device. `launch` compiles the kernel of a shape."""

    def __init__(self, local: ExpertCompute, config: ModelConfig, device: torch.device, launch: Callable[[Shape], Run]):
        """Store, arithmetic and limit are those of `local`. Each layer's weights become one stack on `device`.

        Raises ValueError, leaving the store unchanged, for formats or arithmetic that the kernels do not compute.
        """
        super().__init__(local.store, local.arithmetic, local.limit)
        if not self.arithmetic.released:
            raise ValueError(f"{self.arithmetic} arithmetic; the kernels of routed experts compute released arithmetic")
        self._launcher = functools.cache(launch)
        self._shapes = shapes(config)
        self._waves = Waves(config.n_routed_experts)
        self._ranks: dict[Shape, Rank] = {}
        self._device = device
        self._weights = self._adopt()

    def _adopt(self) -> dict[int, dict[str, Tensor]]:
        """Stacks the experts' weights of each layer. The store's tensors become views of the stacks."""
        rank = Rank(0, self._shapes[0], self._waves, 1, device=self._device)
        store, table = self.store, self.store.table
        stacks = {}
        for layer, forms in enumerate(table.form):
            if other := next((FORMS[form].name for form in forms.flat if FORMS[form].name != "fp4"), None):
                raise ValueError(f"layer {layer} has experts in {other}; expected fp4")
        for layer in range(table.num_layers):
            experts = [store.stored(layer, number) for number in range(table.num_experts)]
            if not experts[0].is_here:  # an MTP module that the files lack
                continue
            stack = rank.weights([_pairs(weights) for weights in experts])
            for number, weights in enumerate(experts):
                store.put(layer, number, _views(stack, number, weights))
            stacks[layer] = stack
        return stacks

    def routed(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        """One launch: h [n, hidden] bfloat16, weights [n, k] float32, ids [n, k] -> [n, hidden] bfloat16."""
        few, many = self._shapes
        if not self.arithmetic.released or self.limit != few.limit:
            raise ValueError(f"{self.arithmetic} arithmetic, limit {self.limit}; expected released, {few.limit}")
        shape = few if ids.numel() <= FEW_ROWS * self._waves.num_experts else many
        if (rank := self._ranks.get(shape)) is None or rank.max_tokens < len(h):
            room = 1 << max(4, (len(h) - 1).bit_length())
            rank = self._ranks[shape] = Rank(0, shape, self._waves, room, device=self._device)
        arguments = rank.prepare(h.contiguous(), [ids], [weights], self._weights[layer], [rank.pointers()])
        self._launcher(shape)(arguments)
        return arguments["out"]  # type: ignore[return-value]


def _views(stack: Mapping[str, Tensor], number: int, weights: ExpertWeights) -> ExpertWeights:
    """Returns an expert's matrices as views of its layer's stack, in the dtypes of `weights`."""
    views = []
    for name, weight, (codes, scales) in zip(weights._fields, weights, _pairs(weights), strict=True):
        scale = stack[f"{name}_scale"][number].view(torch.uint8).view(scales.dtype)
        views.append(weight._replace(codes=stack[name][number].view(codes.dtype), scales=scale))
    return ExpertWeights(*views)


def _pairs(weights: ExpertWeights) -> tuple[Stored, Stored, Stored]:
    """Returns the codes and scales of quantized matrices, as the kernel takes them."""
    w1, w2, w3 = ((weight.codes, weight.scales) for weight in weights)
    return w1, w2, w3  # type: ignore[return-value]


def kernel_experts(local: ExpertCompute, config: ModelConfig, device: torch.device) -> KernelExperts:
    """Returns the routed experts of `local`, computed by the kernels of a GPU.

    Raises ValueError with the reason where they cannot run: another chip, no TileLang or nvcc, other formats or widths.
    """
    from wavefold.ops.tilelang.launch import launcher, why_not

    if reason := why_not(device):
        raise ValueError(reason)
    return KernelExperts(local, config, device, lambda shape: launcher(shape, device))
