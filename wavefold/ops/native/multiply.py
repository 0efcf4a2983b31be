"""Linear layers of training, forward and backward: several products in one call, sums in float32.

    y = x Wᵀ        grad x = grad y W        grad W = grad yᵀ x

A product may be a sum over factors, so that the gradient of an input of several layers is rounded once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, require, runtime
from wavefold.quant import Weight


class FactorStruct(ctypes.Structure):
    """wf_factor."""

    _fields_ = (
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("a_stride", ctypes.c_int64),
        ("b_stride", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("a_turned", ctypes.c_int32),
        ("b_turned", ctypes.c_int32),
    )


class ProductStruct(ctypes.Structure):
    """wf_product."""

    _fields_ = (
        ("factors", ctypes.POINTER(FactorStruct)),
        ("num_factors", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        ("wide", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("more", ctypes.c_int32),
    )


class Product:
    """out [rows, columns] = the sum of A B over `factors`. `out` is bfloat16 or float32, its rows may lie apart.

    A and B are bfloat16 matrices, or transposes of such, with values of a row side by side. With `more` the sum is
    added to a float32 `out`. Raises ValueError for tensors that do not fit.
    """

    def __init__(self, out: Tensor, *factors: tuple[Tensor, Tensor], more: bool = False):
        self.kept = out, factors
        wide = out.dtype == torch.float32
        if out.dim() != 2 or out.stride(1) != 1 or not (wide or (out.dtype == torch.bfloat16 and not more)):
            raise ValueError(f"a result {list(out.shape)} of {out.dtype} is not allowed; expected rows of floats")
        self.factors = (FactorStruct * len(factors))(*(_factor(out, a, b) for a, b in factors))
        address = out.data_ptr()
        places = (None, address) if wide else (address, None)
        self.struct = ProductStruct(self.factors, len(factors), *out.shape, *places, max(out.stride(0), 1), more)


def _factor(out: Tensor, a: Tensor, b: Tensor) -> FactorStruct:
    if a.dim() != 2 or b.dim() != 2 or (len(a), b.shape[1], len(b)) != (*out.shape, a.shape[1]):
        raise ValueError(f"{list(a.shape)} times {list(b.shape)} does not fit a result {list(out.shape)}")
    if a.dtype != torch.bfloat16 or b.dtype != torch.bfloat16 or not (a.is_cpu and b.is_cpu and out.is_cpu):
        raise ValueError(f"factors of {a.dtype} and {b.dtype}; the CPU kernels take bfloat16 on the CPU")
    if 1 not in a.stride() or 1 not in b.stride():
        raise ValueError(
            f"factors with strides {list(a.stride())} and {list(b.stride())}; the CPU kernels take rows or columns "
            "whose values lie side by side: make them contiguous"
        )
    one_line = (len(a) == 1 and a.stride(1) == 1) or (a.shape[1] == 1 and a.stride(0) == 1)  # of both layouts
    a_turned, b_turned = one_line or a.stride(1) != 1, b.stride(1) != 1
    a_stride, b_stride = len(a) if one_line else a.stride(int(a_turned)), b.stride(int(b_turned))
    return FactorStruct(a.data_ptr(), b.data_ptr(), a_stride, b_stride, a.shape[1], a_turned, b_turned)


def multiply(products: Sequence[Product]) -> None:
    """Computes all products. Raises ValueError for shapes that the kernels do not take (an odd depth)."""
    if products:
        structs = (ProductStruct * len(products))(*(product.struct for product in products))
        check(require().wf_multiply(runtime(), structs, len(products)))


def takes_product(a: Tensor, b: Tensor) -> bool:
    """True if `multiply` takes the product of bfloat16 a and b.

    Values of a row or of a column lie side by side. Where it is those along the depth, their number is even, and so is
    the distance of the next ones.
    """
    return _takes(a) and _takes(b.T)


def _takes(factor: Tensor) -> bool:
    """True for a factor [rows, depth]."""
    to_row, to_next = factor.stride()
    if to_row == 1:
        return True
    return to_next == 1 and factor.shape[1] % 2 == 0 and (to_row % 2 == 0 or len(factor) == 1)


def takes(*weights: Weight) -> bool:
    """True if `linear` can multiply by the values of these weights in bfloat16: of even sizes."""
    return all(
        weight.shape[0] % 2 == 0 and weight.shape[1] % 2 == 0 and weight.codes.is_contiguous() for weight in weights
    )


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in], weight [out, in], both bfloat16 -> x weightᵀ [..., out]."""
    (out,) = _Linears.apply(x.reshape(-1, x.shape[-1]), weight)
    return out.view(*x.shape[:-1], len(weight))


def linears(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x [n, in] -> x weightᵀ [n, out] for each weight [out, in]. The gradient of x is rounded once."""
    return _Linears.apply(x, *weights)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        x = bf16(x)
        ctx.save_for_backward(x, *weights)
        outs = tuple(x.new_empty(len(x), len(weight)) for weight in weights)
        multiply([Product(out, (x, weight.T)) for out, weight in zip(outs, weights, strict=True)])
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        back = [bf16(grad) for grad in grads]
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weights = [torch.empty_like(w) if need else None
                        for w, need in zip(weights, ctx.needs_input_grad[1:], strict=True)]  # fmt: skip
        products = [] if grad_x is None else [Product(grad_x, *zip(back, weights, strict=True))]
        products += [Product(to, (g.T, x)) for to, g in zip(grad_weights, back, strict=True) if to is not None]
        multiply(products)
        return grad_x, *grad_weights
