"""A linear layer in groups for training. Each group's product is written in place, forward and backward.

torch's batched product of strided operands would copy them, transposed once more for the gradient of the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def grouped_linear(x: Tensor, weight: Tensor, num_groups: int) -> Tensor:
    """x [n, groups * in], weight [groups * out, in] of one dtype -> [n, groups * out]."""
    return _GroupedLinear.apply(x, weight, num_groups)


def _columns(x: Tensor, num_groups: int) -> tuple[Tensor, ...]:
    return x.chunk(num_groups, -1)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, num_groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.num_groups = num_groups
        out = x.new_empty(len(x), len(weight))
        parts = zip(_columns(x, num_groups), weight.chunk(num_groups), _columns(out, num_groups), strict=True)
        for inputs, rows, to in parts:
            torch.mm(inputs, rows.T, out=to)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        num_groups = ctx.num_groups
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        for grad, inputs, rows, to, to_rows in zip(
            _columns(grads[0], num_groups), _columns(x, num_groups), weight.chunk(num_groups),
            _columns(grad_x, num_groups), grad_weight.chunk(num_groups), strict=True,
        ):  # fmt: skip
            torch.mm(grad, rows, out=to)
            torch.mm(grad.T, inputs, out=to_rows)
        return grad_x, grad_weight, None
