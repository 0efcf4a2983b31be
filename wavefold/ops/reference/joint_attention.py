"""Attention of one whole sequence, for training: window, entries and sink in one softmax, with its own gradient.

    z = q . k / sqrt(c)   over the window's tokens and the seen entries
    p = exp(z - lse)      lse = log(sum exp(z) + exp(sink))
    o = p k               mass[t, i] = sum over heads of p[t, head, entry i]: the target of the indexer

`RunningSoftmax` computes the same piece by piece for a cache of any length. Here the backward pass computes
probabilities again, chunk by chunk, so that saved tensors grow only with the tokens. Report section 2.3.

Shape suffixes: n queries, H heads, c head_dim, m entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

QUERY_CHUNK = 128
"""Queries at a time. The scores of a chunk are the largest allocation."""


def joint_attention(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int, chosen: Tensor | None, mass: bool
) -> tuple[Tensor, Tensor | None]:
    """q [n, H, c], kv [n, c], entries [m, c] of one dtype, sink [H] float32 -> o [n, H, c], mass [n, m] float32.

    Query t sees tokens t - window + 1 .. t and entries i < (t + 1) // ratio (ratio 0: no entries); with `chosen`
    [n, m] bool, the chosen ones of these entries. Without `mass` the mass is None. It carries no gradient.
    """
    o, entry_mass = _JointAttention.apply(q, kv, entries, sink, window, ratio, chosen, mass)
    return o, entry_mass if mass else None


class _JointAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int,
        chosen: Tensor | None, mass: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        o, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=wide)
        entry_mass = q.new_zeros(len(q), len(entries) if mass else 0, dtype=wide)
        for chunk in _chunks(kv, entries, window, ratio, chosen, len(q)):
            z = chunk.scores(q, wide)
            wide_sink = sink.to(wide)[:, None]
            top = torch.maximum(z.amax(-1, keepdim=True), wide_sink)
            p = z.sub_(top).exp_()
            total = p.sum(-1, keepdim=True) + torch.exp(wide_sink - top)
            p /= total
            o[chunk.queries] = torch.matmul(p.to(q.dtype), chunk.keys)
            lse[chunk.queries] = (top + total.log()).squeeze(-1)
            if mass:
                seen = p[..., len(chunk.keys) - chunk.num_entries :]
                entry_mass[chunk.queries, : chunk.num_entries] = seen.sum(1)
        ctx.save_for_backward(q, kv, entries, sink, chosen, o, lse)
        ctx.window, ctx.ratio = window, ratio
        ctx.mark_non_differentiable(entry_mass)
        return o, entry_mass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, entries, sink, chosen, o, lse = ctx.saved_tensors
        window, ratio = ctx.window, ctx.ratio
        wide = lse.dtype
        grad_o = grads[0]
        grad_q = torch.empty_like(q)
        grad_kv, grad_entries = torch.zeros_like(kv, dtype=wide), torch.zeros_like(entries, dtype=wide)
        delta = (grad_o.to(wide) * o.to(wide)).sum(-1)
        for chunk in _chunks(kv, entries, window, ratio, chosen, len(q)):
            rows = chunk.queries
            p = chunk.scores(q, wide).sub_(lse[rows, :, None]).exp_()
            dp = torch.matmul(grad_o[rows], chunk.keys.T).to(wide)
            dz = dp.sub_(delta[rows, :, None]).mul_(p).mul_(q.shape[-1] ** -0.5).to(q.dtype)
            grad_q[rows] = torch.matmul(dz, chunk.keys)
            dz, p = dz.flatten(0, 1), p.to(q.dtype).flatten(0, 1)
            grad_keys = torch.matmul(dz.T, q[rows].flatten(0, 1)) + torch.matmul(p.T, grad_o[rows].flatten(0, 1))
            num_tokens = len(chunk.keys) - chunk.num_entries
            grad_kv[chunk.tokens] += grad_keys[:num_tokens]
            grad_entries[: chunk.num_entries] += grad_keys[num_tokens:]
        grad_sink = -(torch.exp(sink.to(wide) - lse) * delta).sum(0).to(sink.dtype)
        return grad_q, grad_kv.to(kv.dtype), grad_entries.to(entries.dtype), grad_sink, None, None, None, None


class _Chunk:
    """Consecutive queries of the sequence, and the keys that any of them sees: tokens, then entries."""

    def __init__(
        self, queries: slice, kv: Tensor, entries: Tensor, window: int, ratio: int, chosen: Tensor | None
    ):  # fmt: skip
        self.queries = queries
        self.tokens = slice(max(0, queries.start - window + 1), queries.stop)
        self.num_entries = min(len(entries), queries.stop // ratio) if ratio else 0
        self.keys = torch.cat((kv[self.tokens], entries[: self.num_entries]))
        positions = torch.arange(queries.start, queries.stop, device=kv.device)[:, None]
        age = positions - torch.arange(self.tokens.start, self.tokens.stop, device=kv.device)
        seen = torch.arange(self.num_entries, device=kv.device) < (positions + 1) // max(1, ratio)
        if chosen is not None:
            seen &= chosen[queries, : self.num_entries]
        self.hidden = ~torch.cat(((age >= 0) & (age < window), seen), 1)[:, None]

    def scores(self, q: Tensor, wide: torch.dtype) -> Tensor:
        """Returns z [queries, H, keys] in `wide`, a new tensor, with -inf where a query does not see a key."""
        z = torch.matmul(q[self.queries], self.keys.T).to(wide)
        return z.mul_(q.shape[-1] ** -0.5).masked_fill_(self.hidden, -torch.inf)


def _chunks(
    kv: Tensor, entries: Tensor, window: int, ratio: int, chosen: Tensor | None, num_queries: int
) -> Iterator[_Chunk]:
    for first in range(0, num_queries, QUERY_CHUNK):
        yield _Chunk(slice(first, min(first + QUERY_CHUNK, num_queries)), kv, entries, window, ratio, chosen)
