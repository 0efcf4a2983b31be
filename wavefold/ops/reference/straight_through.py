"""Rounding inside training: the forward pass sees rounded values, the gradient passes unchanged.

Straight-through estimator: DeepSeek-V4 report section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def straight_through(simulate: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns simulate(x), of x's shape and type, with the gradient of the identity."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _StraightThrough.apply(x, simulate)
    return simulate(x)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, simulate: Callable[[Tensor], Tensor]) -> Tensor:
        return simulate(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
