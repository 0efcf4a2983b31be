"""Cross-entropy without the logits: a piece of rows at a time, with its gradient.

    hidden [n, d] --head [V, d]--> logits of a piece [p, V] --> nats, and (softmax - target) back through the head

The backward pass keeps tensors of the sizes of `hidden` and of the head, never [n, V].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold import ops
from wavefold.data.batches import IGNORED

PIECE_LOGITS = 1 << 21
"""Largest number of logits that exist at a time."""


def cross_entropy_sum(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """hidden [n, d], head [V, d], targets [n] int64 -> total nats, a float32 scalar.

    The head is cast to the dtype of `hidden`. Targets of `IGNORED` count nothing. float64 activations give a float64
    sum.
    """
    return _CrossEntropySum.apply(hidden, head, targets)


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        weight = head.to(hidden.dtype)
        learns = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if learns else None
        grad_head = torch.zeros_like(head, dtype=wide) if learns else None
        total = hidden.new_zeros((), dtype=torch.float64)
        piece = max(1, PIECE_LOGITS // len(head))
        for first in range(0, len(hidden), piece):
            rows = slice(first, first + piece)
            chunk = targets[rows]
            logits = hidden.new_empty(len(chunk), len(weight))
            ops.multiply_(logits, hidden[rows], weight.T)
            nats, grad = ops.cross_entropy_(logits, chunk, IGNORED)
            total += nats.sum(dtype=torch.float64)
            if grad_hidden is not None and grad_head is not None:
                ops.multiply_(grad_hidden[rows], grad, weight)
                ops.multiply_(grad_head, grad.T, hidden[rows], more=True)
        if learns:
            ctx.save_for_backward(grad_hidden, grad_head.to(head.dtype))  # type: ignore[union-attr]
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_head * grads[0].to(grad_head.dtype), None
