"""The Hadamard transform of index queries and keys, and their FP4, in training: one pass over the rows each way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wavefold.ops.native.library import bf16, check, require, runtime

MOST_COLUMNS = 1024


def takes(x: Tensor) -> bool:
    """True if `hadamard_fp4` takes rows of this size: powers of two, of whole blocks of FP4."""
    columns = x.shape[-1]
    return x.dtype == torch.bfloat16 and x.numel() > 0 and 32 <= columns <= MOST_COLUMNS and not columns & (columns - 1)


def hadamard_fp4(x: Tensor) -> Tensor:
    """x bfloat16 [..., n] -> its Hadamard transform through FP4 and back. The gradient passes through the FP4."""
    return _HadamardFP4.apply(x)


def _transform(x: Tensor, rounded: bool) -> Tensor:
    x = bf16(x)
    out = torch.empty_like(x)
    rows = x.numel() // x.shape[-1]
    check(require().wf_hadamard(runtime(), x.data_ptr(), rows, x.shape[-1], rounded, out.data_ptr()))
    return out


class _HadamardFP4(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _transform(x, True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _transform(grads[0], False)
