"""mHC in training: the connection around a sublayer, forward and backward, one pass over the streams each.

    streams --HcRead--> x, post, comb, and the streams past the sublayer --HcReturn--> streams

The streams go through HcRead, so that their whole gradient is rounded to bfloat16 once.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, pointer, require, runtime

STREAMS = 4
"""The only number of streams that these kernels take."""


class HcStruct(ctypes.Structure):
    """wf_hc."""

    _fields_ = (
        ("fn", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("hidden", ctypes.c_int64),
        ("streams", ctypes.c_int32),
        ("iters", ctypes.c_int32),
        ("last", ctypes.c_int32),
        ("eps", ctypes.c_float),
        ("norm_eps", ctypes.c_float),
    )


def hc_read(
    x_nJd: Tensor, fn: Tensor, base: Tensor, scale: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_nJd bfloat16 -> x [n, d], post [n, J], comb [n, J, J], and x_nJd. Raises ValueError for misfitting shapes."""
    return _HcRead.apply(x_nJd, fn, base, scale, (iters, eps, norm_eps))


def hc_head(x_nJd: Tensor, fn: Tensor, base: Tensor, scale: Tensor, eps: float, norm_eps: float) -> Tensor:
    """The last collapse: [n, d]."""
    return _HcHead.apply(x_nJd, fn, base, scale, (1, eps, norm_eps))


def hc_expand(out_nd: Tensor, x_nJd: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """post_k F + sum_j comb[j, k] X_j: [n, J, d]."""
    return _HcReturn.apply(out_nd, x_nJd, post, comb)


def _struct(x_nJd: Tensor, parameters: tuple[Tensor, ...], numbers: tuple[int, float, float], last: bool) -> HcStruct:
    fn, base, scale = parameters
    streams, hidden = x_nJd.shape[1:]
    outputs = streams if last else 2 * streams + streams**2
    shapes = fn.shape == (outputs, streams * hidden), base.numel() == outputs, scale.numel() == (1 if last else 3)
    if not all(shapes):
        raise ValueError(
            f"fn {list(fn.shape)}, base {list(base.shape)} and scale {list(scale.shape)} do not fit streams "
            f"{list(x_nJd.shape)}"
        )
    iters, eps, norm_eps = numbers
    return HcStruct(fn.data_ptr(), base.data_ptr(), scale.data_ptr(), hidden, streams, iters, last, eps, norm_eps)


def _read(ctx: Any, x: Tensor, parameters: tuple[Tensor, ...], numbers: Any, last: bool) -> tuple[Tensor, ...]:
    dtypes = [parameter.dtype for parameter in parameters]
    x, parameters = bf16(x), tuple(floats(parameter) for parameter in parameters)
    struct = _struct(x, parameters, numbers, last)
    n, streams, hidden = x.shape
    out, mixes = x.new_empty(n, hidden), torch.empty(n, len(parameters[0]) + 1, dtype=torch.float32)
    post = None if last else torch.empty(n, streams, dtype=torch.float32)
    comb = None if last else torch.empty(n, streams, streams, dtype=torch.float32)
    results = (pointer(t) for t in (mixes, out, post, comb))
    check(require().wf_hc_read(runtime(), ctypes.byref(struct), x.data_ptr(), n, *results))
    ctx.save_for_backward(x, mixes, *parameters)
    ctx.numbers, ctx.last, ctx.dtypes = numbers, last, dtypes
    return (out,) if post is None or comb is None else (out, post, comb)


def _read_grad(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    x, mixes, *parameters = ctx.saved_tensors
    numbers, last, dtypes = ctx.numbers, ctx.last, ctx.dtypes
    struct = _struct(x, tuple(parameters), numbers, last)
    n, streams, hidden = x.shape
    out = bf16(x.new_zeros(n, hidden) if grads[0] is None else grads[0])
    post, comb, past = (*grads[1:], None, None, None)[:3]
    if not last:
        post = torch.zeros(n, streams, dtype=torch.float32) if post is None else floats(post)
        comb = torch.zeros(n, streams, streams, dtype=torch.float32) if comb is None else floats(comb)
    past = None if past is None else bf16(past)
    grad_x = torch.empty_like(x)
    grad_parameters = [torch.empty_like(parameter) for parameter in parameters]
    pointers = (pointer(t) for t in (mixes, out, post, comb, past, grad_x, *grad_parameters))
    check(require().wf_hc_read_grad(runtime(), ctypes.byref(struct), x.data_ptr(), n, *pointers))
    return grad_x, *(grad.to(dtype) for grad, dtype in zip(grad_parameters, dtypes, strict=True)), None


class _HcRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fn: Tensor, base: Tensor, scale: Tensor, numbers: Any) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return *_read(ctx, x, (fn, base, scale), numbers, False), x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _read_grad(ctx, grads)


class _HcHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fn: Tensor, base: Tensor, scale: Tensor, numbers: Any) -> Tensor:
        return _read(ctx, x, (fn, base, scale), numbers, True)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _read_grad(ctx, grads)


class _HcReturn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, x: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        f, x, post, comb = bf16(f), bf16(x), floats(post), floats(comb)
        n, streams, hidden = x.shape
        if (f.shape, post.shape, comb.shape) != ((n, hidden), (n, streams), (n, streams, streams)):
            raise ValueError(
                f"F {list(f.shape)}, post {list(post.shape)} and comb {list(comb.shape)} do not fit streams "
                f"{list(x.shape)}"
            )
        y = torch.empty_like(x)
        pointers = (t.data_ptr() for t in (f, x, post, comb))
        check(require().wf_hc_return(runtime(), *pointers, n, streams, hidden, y.data_ptr()))
        ctx.save_for_backward(f, x, post, comb)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        f, x, post, comb = ctx.saved_tensors
        grad = bf16(grads[0])
        results = [torch.empty_like(t) for t in (f, x, post, comb)]
        pointers = (t.data_ptr() for t in (f, x, post, comb, grad))
        to = (t.data_ptr() for t in results)
        check(require().wf_hc_return_grad(runtime(), *pointers, *x.shape, *to))
        return tuple(results)
