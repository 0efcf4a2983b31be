"""y = x Wᵀ for a weight in its packed bytes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from wavefold.ops.native.library import MatrixStruct, check, require, runtime
from wavefold.quant import FORMATS, Weight

FORMS = tuple(FORMATS)
"""The formats in the order of the library's numbers, from WF_FP4 on."""


def takes(weight: Weight) -> bool:
    """True if the library has the weight's format."""
    return weight.format.name in FORMS


def linear(x: Tensor, weight: Weight, dtype: torch.dtype, x_fp8: bool = False) -> Tensor:
    """x bfloat16 [..., in], weight [out, in] in its stored bytes -> [..., out] in `dtype`.

    `dtype` is bfloat16 or float32; with `x_fp8`, x goes through FP8 in blocks of 128. Raises ValueError for shapes that
    do not fit.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    num_out = weight.shape[0]
    matrix = matrix_of(weight)
    if matrix.columns != rows.shape[1] or x.dtype != torch.bfloat16:
        raise ValueError(f"x of shape {list(x.shape)} and {x.dtype} does not fit a weight of {matrix.columns} columns")
    y = torch.empty(len(rows), num_out, dtype=dtype)
    check(
        require().wf_linear(
            runtime(),
            ctypes.byref(matrix),
            rows.data_ptr(),
            len(rows),
            x_fp8,
            y.data_ptr(),
            dtype == torch.bfloat16,
        )
    )
    return y.view(*x.shape[:-1], num_out)


def decode(weight: Weight, first: int, count: int) -> Tensor:
    """Returns rows first .. first + count in bfloat16, rounded to nearest where bfloat16 does not hold the value."""
    matrix = matrix_of(weight)
    out = torch.empty(max(0, count), matrix.columns, dtype=torch.bfloat16)
    check(
        require().wf_decode(
            runtime(), ctypes.byref(matrix), first, count, out.data_ptr(), out.numel() * out.element_size()
        )
    )
    return out


def fp8_sim(x: Tensor, block: int) -> Tensor:
    """x bfloat16 [..., n] through FP8 and back, a scale for each `block` values: `quant.fp8_sim` to the bit."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        raise ValueError(f"x of {x.dtype} on {x.device}; the CPU kernel takes bfloat16 on the CPU")
    x = x.contiguous()
    out = torch.empty_like(x)
    rows = x.numel() // x.shape[-1]
    check(require().wf_fp8_sim(runtime(), x.data_ptr(), rows, x.shape[-1], block, out.data_ptr()))
    return out


def matrix_of(weight: Weight) -> MatrixStruct:
    """Returns a weight as the library takes it. The structure keeps the tensors of its addresses alive."""
    form, (rows, columns), codes, scales = weight
    if codes.dim() != 2 or form.name not in FORMS:
        raise ValueError(f"a weight of {codes.dtype} and shape {list(codes.shape)}; expected a packed or plain matrix")
    if not codes.is_contiguous() or codes.device.type != "cpu":
        raise ValueError("the CPU kernels take contiguous tensors on the CPU")
    if scales is not None:
        scales = scales.contiguous()
    matrix = MatrixStruct(
        FORMS.index(form.name),
        rows,
        columns,
        codes.data_ptr(),
        codes.nbytes,
        None if scales is None else scales.data_ptr(),
        0 if scales is None else scales.nbytes,
    )
    matrix.kept = codes, scales
    return matrix
