"""Rotary positions. Their meaning: `ops/reference/rope.py`."""

from __future__ import annotations

from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.flops import count
from wavefold.ops.native import norm_grad
from wavefold.ops.reference import rope as reference


def rotate(x: Tensor, table: reference.Table, arithmetic: Arithmetic, inverse: bool = False) -> Tensor:
    """x [n, ..., dim] with its last rope dims rotated to the table's positions (rotated back if `inverse`)."""
    if kernels_train(x):
        count("rope", x.numel() // x.shape[-1] * 6 * table[0].shape[-1])
        return norm_grad.rotate(x, table, inverse)
    return reference.rotate(x, table, arithmetic, inverse)
