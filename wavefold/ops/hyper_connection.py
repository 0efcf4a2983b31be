"""Manifold-constrained hyper-connections (mHC). The meaning of each op: `ops/reference/hyper_connection.py`."""

from __future__ import annotations

from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.flops import count, count_linear
from wavefold.ops.native import hyper_connection as native
from wavefold.ops.native import hyper_grad
from wavefold.ops.reference import hyper_connection as reference


def _trains(arithmetic: Arithmetic, x_nJd: Tensor, *others: Tensor) -> bool:
    return x_nJd.shape[1] == hyper_grad.STREAMS and not arithmetic.released and kernels_train(x_nJd, *others)


def hc_read(
    x_nJd: Tensor,
    fn: Tensor,
    base: Tensor,
    scale: Tensor,
    iters: int,
    eps: float,
    norm_eps: float,
    arithmetic: Arithmetic,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x [n, d], which a sublayer reads; post and comb, for its output; and the streams to add the output to.

    `hc_weights` and `hc_collapse` in one op, so that the whole gradient of the streams is summed in one place.
    """
    if _trains(arithmetic, x_nJd, fn, base, scale):
        x = x_nJd.flatten(1)
        count_linear(x, fn)
        count("mhc", 4 * x.numel() + (4 + 4 * iters) * len(x) * x_nJd.shape[1] ** 2)
        return hyper_grad.hc_read(x_nJd, fn, base, scale, iters, eps, norm_eps)
    pre, post, comb = hc_weights(x_nJd, fn, base, scale, iters, eps, norm_eps, arithmetic)
    return hc_collapse(x_nJd, pre), post, comb, x_nJd


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
    x = x_nJd.flatten(1)
    count_linear(x, fn)
    count("mhc", 2 * x.numel() + (4 + 4 * iters) * len(x) * x_nJd.shape[1] ** 2)
    if kernels_serve(x_nJd, fn, base, scale):
        return native.hc_weights(x_nJd, fn, base, scale, iters, eps, norm_eps)
    return reference.hc_weights(x_nJd, fn, base, scale, iters, eps, norm_eps, arithmetic)


def hc_collapse(x_nJd: Tensor, pre: Tensor) -> Tensor:
    """sum_j pre_j X_j: [n, d] in the streams' dtype."""
    count("mhc", 2 * x_nJd.numel())
    if kernels_serve(x_nJd, pre):
        return native.hc_collapse(x_nJd, pre)
    return reference.hc_collapse(x_nJd, pre)


def hc_expand(out_nd: Tensor, x_nJd: Tensor, post: Tensor, comb: Tensor, arithmetic: Arithmetic) -> Tensor:
    """post_k F + sum_j comb[j, k] X_j: [n, K, d] in the streams' dtype, summed in float32 and rounded once."""
    count("mhc", 2 * (comb.shape[1] + 1) * comb.shape[2] * out_nd.numel())
    if out_nd.dtype == x_nJd.dtype and _trains(arithmetic, x_nJd, out_nd, post, comb):
        return hyper_grad.hc_expand(out_nd, x_nJd, post, comb)
    if out_nd.dtype == x_nJd.dtype and kernels_serve(x_nJd, post, comb):
        return native.hc_expand(out_nd, x_nJd, post, comb)
    return reference.hc_expand(out_nd, x_nJd, post, comb, arithmetic)


def hc_head(
    x_nJd: Tensor, fn: Tensor, base: Tensor, scale: Tensor, eps: float, norm_eps: float, arithmetic: Arithmetic
) -> Tensor:
    """The last collapse, before the final norm: [n, d] in the streams' dtype. No Sinkhorn here."""
    x = x_nJd.flatten(1)
    count_linear(x, fn)
    count("mhc", 4 * x.numel())
    if _trains(arithmetic, x_nJd, fn, base, scale):
        return hyper_grad.hc_head(x_nJd, fn, base, scale, eps, norm_eps)
    if kernels_serve(x_nJd, fn, base, scale):
        return native.hc_head(x_nJd, fn, base, scale, eps, norm_eps)
    return reference.hc_head(x_nJd, fn, base, scale, eps, norm_eps, arithmetic)
