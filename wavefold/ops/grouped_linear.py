"""A linear layer in groups for training: the kernels' products of all groups in one call, or torch's, one by one.

Each group's product is written in place, forward and backward.

torch's batched product of strided operands would copy them, transposed once more for the gradient of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.multiply import Product, multiply, takes_product


def grouped_linear(x: Tensor, weight: Tensor, num_groups: int) -> Tensor:
    """x [n, groups * in], weight [groups * out, in] of one dtype -> [n, groups * out]."""
    return _GroupedLinear.apply(x, weight, num_groups)


def _multiply(products: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """out = A B for each (out, A, B)."""
    if all(out.dtype == torch.bfloat16 and takes_product(a, b) for out, a, b in products):
        multiply([Product(out, (a, b)) for out, a, b in products])
        return
    for out, a, b in products:
        torch.mm(a, b, out=out)


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, num_groups: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.num_groups = num_groups
        out = x.new_empty(len(x), len(weight))
        parts = out.chunk(num_groups, -1), x.chunk(num_groups, -1), weight.chunk(num_groups)
        _multiply([(to, inputs, rows.T) for to, inputs, rows in zip(*parts, strict=True)])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        num_groups, grad = ctx.num_groups, grads[0].contiguous()
        grad_x, grad_weight = (
            torch.empty_like(tensor) if need else None
            for tensor, need in zip((x, weight), ctx.needs_input_grad, strict=False)
        )
        columns = grad.chunk(num_groups, -1), x.chunk(num_groups, -1), weight.chunk(num_groups)
        if grad_x is not None:
            parts = zip(*columns, grad_x.chunk(num_groups, -1), strict=True)
            _multiply([(to, g, rows) for g, _, rows, to in parts])
        if grad_weight is not None:
            parts = zip(*columns, grad_weight.chunk(num_groups), strict=True)
            _multiply([(to, g.T, inputs) for g, inputs, _, to in parts])
        return grad_x, grad_weight, None
