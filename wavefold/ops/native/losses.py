"""Losses of training with gradients from the forward pass: cross-entropy, and the loss of the indexer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, pointer, require, runtime
from wavefold.ops.native.multiply import Product, multiply

PIECE_DOTS = 1 << 21
"""Dots of index queries and keys that are allocated at a time."""


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """logits bfloat16 [n, V], targets int64 [n] -> nats [n] float32. The gradient overwrites the logits.

    Rows with a negative target do not count. Raises ValueError for arguments that do not fit.
    """
    targets = targets.contiguous()
    if logits.dim() != 2 or targets.shape != logits.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"logits {list(logits.shape)} and targets {list(targets.shape)} of {targets.dtype} do not fit")
    if logits.dtype != torch.bfloat16 or not logits.is_contiguous():
        raise ValueError(f"logits of {logits.dtype}; the CPU kernels take bfloat16, contiguous")
    nats = torch.empty(len(logits), dtype=torch.float32)
    check(
        require().wf_cross_entropy(
            runtime(), logits.data_ptr(), targets.data_ptr(), *logits.shape, nats.data_ptr()
        )
    )  # fmt: skip
    return nats


def index_loss(
    q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, chosen: Tensor | None, ratio: int, rounded: bool
) -> Tensor:  # fmt: skip
    """q [n, heads, dim], weights [n, heads], keys [m, dim] bfloat16 of one sequence, mass [n, m] float32 -> a scalar.

    Token t sees the first (t + 1) // ratio entries; with `chosen` [n, m], the chosen ones of them. `rounded`: dots,
    their products with the weights and the sums over heads go through bfloat16. Raises ValueError for shapes that do
    not fit.
    """
    return _IndexLoss.apply(q, weights, keys, mass, chosen, ratio, rounded)


class _IndexLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, chosen: Tensor | None, ratio: int,
        rounded: bool,
    ) -> Tensor:  # fmt: skip
        q, weights, keys, mass = bf16(q), bf16(weights), bf16(keys), mass.contiguous()
        (n, heads, dim), m = q.shape, len(keys)
        chosen = None if chosen is None else chosen.contiguous()
        fits = weights.shape == (n, heads) and keys.shape == (m, dim) and mass.shape == (n, m)
        if not fits or mass.dtype != torch.float32 or (chosen is not None and chosen.shape != (n, m)):
            raise ValueError(
                f"q {list(q.shape)}, weights {list(weights.shape)}, keys {list(keys.shape)} and mass "
                f"{list(mass.shape)} of {mass.dtype} do not fit"
            )
        grad_q, grad_weights = torch.empty_like(q), torch.empty(n, heads, dtype=torch.float32)
        grad_keys, loss = torch.zeros(m, dim, dtype=torch.float32), torch.empty(n, dtype=torch.float32)
        piece = max(1, PIECE_DOTS // (heads * m))
        for first in range(0, n, piece):
            rows = slice(first, first + piece)
            q_rows = q[rows].flatten(0, 1)
            dots = torch.empty(len(q_rows), m, dtype=torch.float32)
            multiply([Product(dots, (q_rows, keys.T))])
            grad_dots = torch.empty_like(dots, dtype=torch.bfloat16)
            operands = dots, weights[rows], mass[rows], None if chosen is None else chosen[rows]
            sizes = first, len(weights[rows]), heads, m, ratio, rounded
            results = (t.data_ptr() for t in (loss[rows], grad_dots, grad_weights[rows]))
            check(require().wf_index_loss(runtime(), *(pointer(t) for t in operands), *sizes, *results))
            products = [Product(grad_keys, (grad_dots.T, q_rows), more=True)]
            if m % 2 == 0:
                products.append(Product(grad_q[rows].view(-1, dim), (grad_dots, keys)))
            else:  # the kernels take pairs
                torch.mm(grad_dots, keys, out=grad_q[rows].view(-1, dim))
            multiply(products)
        ctx.save_for_backward(grad_q, grad_weights.to(weights.dtype), grad_keys.to(keys.dtype))
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, weights, keys = (grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors)
        return q, weights, keys, None, None, None, None
