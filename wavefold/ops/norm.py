"""RMS norms. Their meaning: `ops/reference/norm.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.flops import count
from wavefold.ops.native import norm as native
from wavefold.ops.native import norm_grad
from wavefold.ops.reference import norm as reference
from wavefold.ops.reference.rope import Table, rotate


def rms_norm(x: Tensor, weight: Tensor, eps: float, arithmetic: Arithmetic) -> Tensor:
    """x [..., n], weight [n] -> [..., n] in x's dtype; computed in float32, rounded once."""
    count("norm", 4 * x.numel())
    if not arithmetic.released and kernels_train(x, weight):
        return norm_grad.norm(x, weight, eps, None)
    if weight.dtype == torch.bfloat16 and kernels_serve(x, weight):
        return native.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps, arithmetic)


def rms_norm_rotated(x: Tensor, weight: Tensor | None, eps: float, table: Table, arithmetic: Arithmetic) -> Tensor:
    """x [n, ..., c] -> its RMS norm, rotated to the table's positions. Without a weight: x / rms(x), rotated."""
    if not arithmetic.released and kernels_train(x, *(() if weight is None else (weight,))):
        count("norm", (3 if weight is None else 4) * x.numel())
        count("rope", x.numel() // x.shape[-1] * 6 * table[0].shape[-1])
        return norm_grad.norm(x, weight, eps, table)
    if weight is None:
        x = reference.unit_rms_norm(x, eps, arithmetic)
    else:
        x = rms_norm(x, weight, eps, arithmetic)
    return rotate(x, table, arithmetic)
