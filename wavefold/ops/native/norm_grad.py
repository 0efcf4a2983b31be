"""RMS norms and rotation in training, forward and backward: rows of bfloat16, weights float32 or bfloat16."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, floats, pointer, require, runtime
from wavefold.ops.reference.rope import Table


class TurnStruct(ctypes.Structure):
    """wf_turn."""

    _fields_ = (
        ("cosine", ctypes.c_void_p),
        ("sine", ctypes.c_void_p),
        ("pairs", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("inverse", ctypes.c_int32),
    )


def norm(x: Tensor, weight: Tensor | None, eps: float, table: Table | None) -> Tensor:
    """x [n, ..., c] -> x / rms(x) * weight [c], its last dims rotated by the table. None: no weight, no rotation."""
    cos, sin = table or (None, None)
    return _Norm.apply(x, weight, eps, cos, sin)


def rotate(x: Tensor, table: Table, inverse: bool) -> Tensor:
    """x [n, ..., c] with its last dims rotated by the table's angles, or back if `inverse`."""
    return _Rotate.apply(x, *table, inverse)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> TurnStruct:
    pairs = cos.shape[-1]
    if cos.shape != sin.shape or cos.shape != (len(x), pairs) or 2 * pairs > x.shape[-1]:
        raise ValueError(f"a table of {list(cos.shape)} and {list(sin.shape)} does not fit rows {list(x.shape)}")
    heads = x.shape[1:-1].numel()
    return TurnStruct(cos.data_ptr(), sin.data_ptr(), pairs, heads, inverse)


def _rows(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, eps: float, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        ctx.dtype = None if weight is None else weight.dtype
        x, weight, cos, sin = bf16(x), *(None if t is None else floats(t) for t in (weight, cos, sin))
        if weight is not None and weight.shape != x.shape[-1:]:
            raise ValueError(f"a weight {list(weight.shape)} does not fit rows {list(x.shape)}")
        turn = None if cos is None or sin is None else _turn(x, cos, sin, False)
        out = torch.empty_like(x)
        check(
            require().wf_norm(
                runtime(),
                x.data_ptr(),
                pointer(weight),
                *_rows(x),
                eps,
                turn and ctypes.byref(turn),
                out.data_ptr(),
            )
        )
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, cos, sin = ctx.saved_tensors
        turn = None if cos is None else _turn(x, cos, sin, False)
        grad, grad_x = bf16(grads[0]), torch.empty_like(x)
        grad_weight = None if weight is None else torch.empty_like(weight)
        results = grad.data_ptr(), grad_x.data_ptr(), pointer(grad_weight)
        check(
            require().wf_norm_grad(
                runtime(), x.data_ptr(), pointer(weight), *_rows(x), ctx.eps, turn and ctypes.byref(turn), *results
            )
        )
        return grad_x, None if grad_weight is None else grad_weight.to(ctx.dtype), None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
        cos, sin = floats(cos), floats(sin)
        ctx.save_for_backward(cos, sin)
        ctx.inverse = inverse
        return _rotated(x, cos, sin, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, not ctx.inverse), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    x = bf16(x)
    turn, out = _turn(x, cos, sin, inverse), torch.empty_like(x)
    check(require().wf_rotate(runtime(), x.data_ptr(), *_rows(x), ctypes.byref(turn), out.data_ptr()))
    return out
