"""The index loss: the indexer learns to score entries as attention weighs them. Report section 2.3.1; V3.2's loss.

    teacher   mass[t, i]: joint softmax over window, sink and entries, summed over heads, then
              divided by its sum over the seen entries
    student   softmax over the same entries of the index scores I[t, i]
    loss      sum over queries of KL(teacher || student)

A head that looks only at the window puts little mass on entries, and should count little: the heads' masses are summed
before they are normalised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.reference.index import index_scores

QUERY_CHUNK = 256


def index_loss(
    q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, seen: Tensor, arithmetic: Arithmetic
) -> Tensor:  # fmt: skip
    """q [n, heads, dim], weights [n, heads], keys [m, dim], mass [n, m], seen [n, m] bool -> loss, a float32 scalar.

    Queries that see no entry, or put no mass on entries, have no loss. Gradients are computed chunk by chunk in the
    forward pass: no [n, heads, m] tensor is kept. `mass` and `seen` have no gradient.
    """
    return _IndexLoss.apply(q, weights, keys, mass, seen, arithmetic)


def index_divergence(
    q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, seen: Tensor, arithmetic: Arithmetic
) -> Tensor:  # fmt: skip
    """The definition of `index_loss`: by autograd, all queries at once."""
    scores = index_scores(q, weights, keys, arithmetic)
    total = (mass * seen).sum(-1, keepdim=True)
    taught = seen & (total > 0)
    teacher = torch.where(taught, mass / total.clamp(min=torch.finfo(mass.dtype).tiny), 0)
    student = scores.masked_fill(~taught, -torch.inf).log_softmax(-1)
    return torch.where(teacher > 0, teacher * (teacher.clamp(min=1e-30).log() - student), 0).sum()


def _same(x: Tensor) -> Tensor:
    return x


class _IndexLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, seen: Tensor, arithmetic: Arithmetic
    ) -> Tensor:  # fmt: skip
        total = mass.new_zeros(())
        grads = torch.empty_like(q), torch.empty_like(weights), torch.zeros_like(keys, dtype=mass.dtype)
        # These hooks replace those of a recomputing block, which would run the whole block again for each piece.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
            for first in range(0, len(q), QUERY_CHUNK):
                rows = slice(first, first + QUERY_CHUNK)
                leaves = tuple(x.detach().requires_grad_() for x in (q[rows], weights[rows], keys))
                loss = index_divergence(leaves[0], leaves[1], leaves[2], mass[rows], seen[rows], arithmetic)
                piece = torch.autograd.grad(loss, leaves)
                total += loss.detach()
                grads[0][rows], grads[1][rows] = piece[0], piece[1]
                grads[2].add_(piece[2])
        ctx.save_for_backward(grads[0], grads[1], grads[2].to(keys.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, weights, keys = (grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors)
        return q, weights, keys, None, None, None
