"""mHC around a sublayer, for tokens with bfloat16 streams: split, collapse, expand, one pass over memory each."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, require, runtime
from wavefold.ops.native.linear import linear, matrix_of
from wavefold.quant import Weight


def hc_weights(
    x_nJd: Tensor, fn: Tensor, base: Tensor, scale: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x_nJd bfloat16 -> pre [n, J], post [n, J], comb [n, J, J] float32."""
    x = x_nJd.flatten(1)
    mixes = linear(x, Weight.of(fn), torch.float32) * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + norm_eps)
    return hc_split(mixes, base, scale, x_nJd.shape[1], iters, eps)


def hc_head(x_nJd: Tensor, fn: Tensor, base: Tensor, scale: Tensor, eps: float, norm_eps: float) -> Tensor:
    """The last collapse: bfloat16 [n, d]."""
    x_nJd, base, scale = bf16(x_nJd), floats(base), floats(scale)
    n, num_streams, hidden = x_nJd.shape
    if base.numel() != num_streams or scale.numel() != 1:
        raise ValueError(f"base {list(base.shape)} and scale {list(scale.shape)} do not fit {num_streams} streams")
    out, matrix = torch.empty(n, hidden, dtype=torch.bfloat16), matrix_of(Weight.of(fn))
    pointers = (t.data_ptr() for t in (base, scale, x_nJd))
    sizes = n, num_streams, hidden, eps, norm_eps
    check(require().wf_hc_head(runtime(), ctypes.byref(matrix), *pointers, *sizes, out.data_ptr()))
    return out


def hc_split(
    mixes: Tensor, base: Tensor, scale: Tensor, num_streams: int, iters: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """mixes [n, 2J + J*J] float32 -> pre, post, comb."""
    mixes, base, scale = (floats(t) for t in (mixes, base, scale))
    n, outputs = len(mixes), 2 * num_streams + num_streams**2
    if mixes.shape[1] != outputs or base.numel() != outputs or scale.numel() != 3:
        raise ValueError(f"mixes {list(mixes.shape)}, base {list(base.shape)} and scale {list(scale.shape)} do not fit")
    shapes = (num_streams,), (num_streams,), (num_streams,) * 2
    pre, post, comb = (torch.empty(n, *shape, dtype=torch.float32) for shape in shapes)
    pointers = (t.data_ptr() for t in (mixes, base, scale))
    results = (t.data_ptr() for t in (pre, post, comb))
    check(require().wf_hc_split(runtime(), *pointers, n, num_streams, iters, eps, *results))
    return pre, post, comb


def hc_collapse(x_nJd: Tensor, pre: Tensor) -> Tensor:
    """sum_j pre_j X_j: bfloat16 [n, d]."""
    x_nJd, pre = bf16(x_nJd), floats(pre)
    n, num_streams, hidden = x_nJd.shape
    if pre.shape != (n, num_streams):
        raise ValueError(f"pre {list(pre.shape)} does not fit streams {list(x_nJd.shape)}")
    out = torch.empty(n, hidden, dtype=torch.bfloat16)
    check(require().wf_hc_collapse(runtime(), x_nJd.data_ptr(), pre.data_ptr(), n, num_streams, hidden, out.data_ptr()))
    return out


def hc_expand(out_nd: Tensor, x_nJd: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """post_k F + sum_j comb[j, k] X_j: bfloat16 [n, J, d]."""
    out_nd, x_nJd, post, comb = bf16(out_nd), bf16(x_nJd), floats(post), floats(comb)
    n, num_streams, hidden = x_nJd.shape
    shapes = (n, hidden), (n, num_streams), (n, num_streams, num_streams)
    if (out_nd.shape, post.shape, comb.shape) != shapes:
        raise ValueError(
            f"F {list(out_nd.shape)}, post {list(post.shape)} and comb {list(comb.shape)} do not fit streams "
            f"{list(x_nJd.shape)}"
        )
    out = torch.empty_like(x_nJd)
    pointers = (t.data_ptr() for t in (out_nd, x_nJd, post, comb))
    check(require().wf_hc_expand(runtime(), *pointers, n, num_streams, hidden, out.data_ptr()))
    return out
