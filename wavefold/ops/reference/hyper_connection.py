"""Manifold-constrained hyper-connections (mHC): the residual is several streams, mixed around each sublayer F.

    x = sum_j pre_j X_j;    X'_k = post_k F(x) + sum_j comb[j, k] X_j

`comb` is made doubly stochastic by Sinkhorn iterations and is applied over its first index. Report section 2.2.
Shape suffixes: n tokens, J streams in, K streams out, d hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic


def _mixes(x_nJd: Tensor, fn: Tensor, norm_eps: float, arithmetic: Arithmetic) -> Tensor:
    """The streams as one vector, projected by fn [out, J * d] and divided by their RMS: [n, out] float32."""
    x = x_nJd.flatten(1).to(arithmetic.accumulate)
    return F.linear(x, fn.to(x.dtype)) * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm_eps)


def hc_weights(
    x_nJd: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    iters: int,
    eps: float,
    norm_eps: float,
    arithmetic: Arithmetic,
) -> tuple[Tensor, Tensor, Tensor]:
    """pre [n, J], post [n, K], comb [n, J, K], float32, from the streams; fn [2J + J*J, J*d], base, scale [3] fp32."""
    return hc_split(_mixes(x_nJd, fn, norm_eps, arithmetic), base, scale, x_nJd.shape[1], iters, eps, arithmetic)


def hc_split(
    mixes: Tensor, base: Tensor, scale: Tensor, num_streams: int, iters: int, eps: float, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns pre, post and comb from the projected mixes [n, 2J + J*J]."""
    sizes = (num_streams, num_streams, num_streams * num_streams)
    (pre, post, comb), bases = mixes.split(sizes, -1), base.to(mixes.dtype).split(sizes)
    pre = _sigmoid(pre * scale[0] + bases[0], arithmetic) + eps
    post = 2 * _sigmoid(post * scale[1] + bases[1], arithmetic)
    comb = (comb * scale[2] + bases[2]).unflatten(-1, (num_streams, num_streams))
    return pre, post, sinkhorn(comb, iters, eps)


def _sigmoid(z: Tensor, arithmetic: Arithmetic) -> Tensor:
    """torch's CPU sigmoid takes a coarser exp than the released kernel: 1 value in 20 is a last place off."""
    return 1 / (1 + torch.exp(-z)) if arithmetic.released else torch.sigmoid(z)


def sinkhorn(comb: Tensor, iters: int, eps: float) -> Tensor:
    """[n, J, K] logits -> nearly doubly stochastic: rows and columns normalised in turn, ending with the columns."""
    comb = torch.exp(comb - comb.amax(-1, keepdim=True).detach())  # softmax; torch's own has a coarser exp on a CPU
    comb = comb / comb.sum(-1, keepdim=True) + eps
    comb = comb.permute(1, 2, 0).contiguous()  # [J, K, n]: sums over four values of n tokens at a time
    comb = comb / (comb.sum(0, keepdim=True) + eps)
    for _ in range(iters - 1):
        comb = comb / (comb.sum(1, keepdim=True) + eps)
        comb = comb / (comb.sum(0, keepdim=True) + eps)
    return comb.permute(2, 0, 1).contiguous()


def hc_collapse(x_nJd: Tensor, pre: Tensor) -> Tensor:
    """sum_j pre_j X_j: [n, d] in the streams' dtype."""
    return (pre[..., None] * x_nJd.to(pre.dtype)).sum(1).to(x_nJd.dtype)


def hc_expand(out_nd: Tensor, x_nJd: Tensor, post: Tensor, comb: Tensor, arithmetic: Arithmetic) -> Tensor:
    """post_k F + sum_j comb[j, k] X_j: [n, K, d] in the streams' dtype, summed in float32 and rounded once."""
    out_nd, streams = out_nd.to(post.dtype)[:, None], x_nJd.to(comb.dtype)
    if arithmetic.released:  # each product rounded, then added stream by stream: a GEMM's order moves 1 row in 50
        mixed = comb[:, 0, :, None] * streams[:, 0, None]
        for j in range(1, streams.shape[1]):
            mixed += comb[:, j, :, None] * streams[:, j, None]
        return mixed.add_(post[..., None] * out_nd).to(x_nJd.dtype)
    mixed = torch.bmm(comb.transpose(1, 2), streams)
    return torch.addcmul(mixed, post[..., None], out_nd).to(x_nJd.dtype)


def hc_head(
    x_nJd: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    eps: float,
    norm_eps: float,
    arithmetic: Arithmetic,
) -> Tensor:
    """The last collapse, before the final norm: [n, d] in the streams' dtype. No Sinkhorn here."""
    pre = torch.sigmoid(_mixes(x_nJd, fn, norm_eps, arithmetic) * scale + base) + eps
    return hc_collapse(x_nJd, pre.to(arithmetic.accumulate))
