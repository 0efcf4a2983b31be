"""RMS norm with a weight. What it means: `ops/reference/norm.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve
from wavefold.ops.flops import count
from wavefold.ops.native import norm as native
from wavefold.ops.reference import norm as reference


def rms_norm(x: Tensor, weight: Tensor, eps: float, arithmetic: Arithmetic) -> Tensor:
    """x [..., n], weight [n] -> [..., n] in x's dtype; computed in float32, rounded once."""
    count("norm", 4 * x.numel())
    if weight.dtype == torch.bfloat16 and x.numel() and kernels_serve(x, weight):
        return native.rms_norm(x, weight, eps)
    return reference.rms_norm(x, weight, eps, arithmetic)
