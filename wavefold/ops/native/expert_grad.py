"""The experts of a layer in training, forward and backward: each product of all of them in one call.

    rows of expert e --w1, w3--> gate, up --SwiGLU--> inner --w2--> out

Rows of an expert lie side by side, those of the next after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, pointer, require, runtime
from wavefold.ops.native.multiply import Product, multiply


def experts(
    x: Tensor, route: Tensor | None, counts: Sequence[int], weights: Sequence[tuple[Tensor, Tensor, Tensor]],
    limit: float,
) -> Tensor:  # fmt: skip
    """x bfloat16 [n, hidden], route [n, 1] float32 or None -> [n, hidden], counts[e] rows by w1, w2, w3 of weights[e].

    Raises ValueError for shapes that do not fit.
    """
    if sum(counts) != len(x) or len(counts) != len(weights) or (route is not None and route.shape != (len(x), 1)):
        shape = "none" if route is None else list(route.shape)
        raise ValueError(f"rows {list(x.shape)}, counts {list(counts)} and route {shape} do not fit")
    return _Experts.apply(x, route, tuple(counts), limit, *(matrix for expert in weights for matrix in expert))


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, route: Tensor | None, counts: tuple[int, ...], limit: float, *matrices: Tensor
    ) -> Tensor:  # fmt: skip
        x, route = bf16(x), None if route is None else floats(route)
        inter = len(matrices[0])
        gate, up, inner = (x.new_empty(len(x), inter) for _ in range(3))
        parts = [t.split(counts) for t in (x, gate, up)]
        multiply([
            Product(to, (rows, matrix.T))
            for rows, to_gate, to_up, w1, w3 in zip(*parts, matrices[::3], matrices[2::3], strict=True)
            for to, matrix in ((to_gate, w1), (to_up, w3))
        ])  # fmt: skip
        pointers = gate.data_ptr(), up.data_ptr(), pointer(route)
        check(require().wf_swiglu(runtime(), *pointers, *gate.shape, limit, inner.data_ptr()))
        out = torch.empty_like(x)
        lines = zip(out.split(counts), inner.split(counts), matrices[1::3], strict=True)
        multiply([Product(to, (rows, w2.T)) for to, rows, w2 in lines])
        ctx.save_for_backward(x, route, gate, up, inner, *matrices)
        ctx.counts, ctx.limit = counts, limit
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, route, gate, up, inner, *matrices = ctx.saved_tensors
        counts, grad = ctx.counts, bf16(grads[0])
        of_matrices = [
            torch.empty_like(matrix) if need else None
            for matrix, need in zip(matrices, ctx.needs_input_grad[4:], strict=True)
        ]
        grad_inner = torch.empty_like(inner)
        back = grad.split(counts)
        lines = zip(grad_inner.split(counts), back, matrices[1::3], strict=True)
        products = [Product(to, (g, w2)) for to, g, w2 in lines]
        lines = zip(of_matrices[1::3], back, inner.split(counts), strict=True)
        multiply(products + [Product(to, (g.T, rows)) for to, g, rows in lines if to is not None])
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        grad_route = None if route is None else torch.empty_like(route)
        pointers = gate.data_ptr(), up.data_ptr(), pointer(route), grad_inner.data_ptr()
        to = grad_gate.data_ptr(), grad_up.data_ptr(), pointer(grad_route)
        check(require().wf_swiglu_grad(runtime(), *pointers, *gate.shape, ctx.limit, *to))
        grad_x = torch.empty_like(x)
        parts = [t.split(counts) for t in (grad_x, x, grad_gate, grad_up)]
        products = []
        for i, (to_x, rows, g, u) in enumerate(zip(*parts, strict=True)):
            w1, w3 = matrices[3 * i], matrices[3 * i + 2]
            products.append(Product(to_x, (g, w1), (u, w3)))
            of_w1, of_w3 = of_matrices[3 * i], of_matrices[3 * i + 2]
            products += [Product(to, (part.T, rows)) for to, part in ((of_w1, g), (of_w3, u)) if to is not None]
        multiply(products)
        return grad_x, grad_route, None, None, *of_matrices
