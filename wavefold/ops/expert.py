"""Experts: SwiGLU with clamped inputs. The meaning: `ops/reference/expert.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.flops import count, count_linear
from wavefold.ops.linear import linear, products_train
from wavefold.ops.native import expert_grad, swiglu
from wavefold.ops.reference import expert as reference
from wavefold.quant import Weight

Matrices = tuple[Weight, Weight, Weight]
"""w1 gate, w2 down, w3 up."""


def expert(
    x: Tensor, w1: Weight, w2: Weight, w3: Weight, route: Tensor | None, limit: float, arithmetic: Arithmetic
) -> Tensor:
    """x [n, hidden] -> [n, hidden] in x's dtype; w1 gate, w2 down, w3 up.

    `route` [n, 1] float32: the tokens' routing weights, applied before w2 (None: 1).
    """
    if _trains(x, route, [(w1, w2, w3)], arithmetic):
        return experts(x, route, [len(x)], [(w1, w2, w3)], limit, arithmetic)
    count("swiglu", _swiglu_operations(x, w1))
    if not arithmetic.released and kernels_train(x, w1.codes, *(() if route is None else (route,))):
        inner = swiglu.swiglu(linear(x, w1, arithmetic), linear(x, w3, arithmetic), route, limit)
        return linear(inner, w2, arithmetic)
    return reference.expert(x, w1, w2, w3, route, limit, arithmetic, linear)


def experts(
    x: Tensor, route: Tensor | None, counts: Sequence[int], weights: Sequence[Matrices], limit: float,
    arithmetic: Arithmetic,
) -> Tensor:  # fmt: skip
    """x [n, hidden], route [n, 1] or None -> `expert` of each row: the first counts[0] by weights[0], and so on."""
    if not _trains(x, route, weights, arithmetic):
        routes = [None] * len(counts) if route is None else route.split(list(counts))
        lines = zip(x.split(list(counts)), weights, routes, strict=True)
        return torch.cat([expert(rows, *matrices, part, limit, arithmetic) for rows, matrices, part in lines])
    for rows, matrices in zip(x.split(list(counts)), weights, strict=True):
        count("swiglu", _swiglu_operations(rows, matrices[0]))
        for matrix in matrices:
            count_linear(torch.empty(len(rows), matrix.shape[1], device="meta"), matrix.codes, packed=matrix.packed)
    values = [(w1.decode(x.dtype), w2.decode(x.dtype), w3.decode(x.dtype)) for w1, w2, w3 in weights]
    return expert_grad.experts(x, route, counts, values, limit)


def _swiglu_operations(x: Tensor, w1: Weight) -> int:
    """Three clamps, a sigmoid of three operations, two products."""
    return 8 * (x.numel() // x.shape[-1]) * w1.shape[0]


def _trains(x: Tensor, route: Tensor | None, weights: Sequence[Matrices], arithmetic: Arithmetic) -> bool:
    if arithmetic.released or x.dim() != 2:
        return False
    others = () if route is None else (route,)
    return products_train(x, [matrix for matrices in weights for matrix in matrices], *others)
