"""Attention with one shared key-value head and a sink, over keys that arrive piece by piece. Report section 2.3.

    z = q . k / sqrt(c);   o = sum_j exp(z_j) k_j / (sum_j exp(z_j) + exp(sink))

A piece is a range of keys that all queries share (the window of a chunk, consecutive entries), or rows gathered for
each query (the indexer's choice). Only the running maximum, sum and output are kept, so that memory does not grow
with the context. The released code takes 64 keys at a time and rounds exp(z - running max) to bfloat16 before the
product with the values: there the piece size is part of the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import count

RELEASED_PIECE = 64


class RunningSoftmax:
    """Attention of q [n, heads, c] over pieces of keys: `add` each, then `finish` once."""

    def __init__(self, q: Tensor, arithmetic: Arithmetic):
        self.arithmetic = arithmetic
        self.dtype = q.dtype
        self.q = q.to(arithmetic.matmul)
        wide = arithmetic.accumulate
        self.max = q.new_full((*q.shape[:2], 1), -torch.inf, dtype=wide)
        self.sum = q.new_zeros((*q.shape[:2], 1), dtype=wide)
        self.out = q.new_zeros(q.shape, dtype=wide)

    def add(self, keys: Tensor, visible: Tensor | None) -> None:
        """Adds keys [m, c] or [n, m, c]. visible [n, m] bool: True where a query sees a key (None: everywhere)."""
        pairs = self.q.shape[0] * self.q.shape[1] * keys.shape[-2]
        count("attention", 4 * pairs * keys.shape[-1])
        count("softmax", 5 * pairs)  # scale, maximum, difference, exponential, sum
        keys = keys.to(self.q.dtype)
        z = torch.matmul(self.q, keys.transpose(-1, -2)).to(self.sum.dtype) * self.q.shape[-1] ** -0.5
        if visible is not None:
            z = z.masked_fill(~visible[:, None], -torch.inf)
        top = torch.maximum(self.max, z.amax(-1, keepdim=True).detach())
        base = top.masked_fill(top == -torch.inf, 0)  # no key seen yet: exp(-inf - 0) = 0
        p, decay = torch.exp(z - base), torch.exp(self.max - base)
        self.sum = self.sum * decay + p.sum(-1, keepdim=True)
        if self.arithmetic.released:
            p = p.to(torch.bfloat16)
        self.out = self.out * decay + torch.matmul(p.to(keys.dtype), keys)
        self.max = top

    def finish(self, sink: Tensor) -> Tensor:
        """sink [heads] -> o [n, heads, c] in q's dtype."""
        count("softmax", self.out.numel())
        return (self.out / (self.sum + torch.exp(sink.to(self.sum.dtype)[:, None] - self.max))).to(self.dtype)
