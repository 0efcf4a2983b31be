"""y = x Wᵀ, with W stored as FP4, FP8, bfloat16 or float32. What each means: `ops/reference/linear.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops import native
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.flops import count, count_linear
from wavefold.ops.grouped_linear import grouped_linear as in_groups
from wavefold.ops.reference import linear as reference


def linear(x: Tensor, weight: Tensor, scale: Tensor | None, arithmetic: Arithmetic) -> Tensor:
    """x [..., in] in the activation dtype, weight [out, in] (FP4: [out, in / 2]) -> [..., out] in the activation dtype.

    In released arithmetic the input of a quantized weight goes through FP8.
    """
    count_linear(x, weight)
    if scale is not None and arithmetic.released:
        count("quantize", 2 * x.numel())
    if quant.is_applied(scale) or not kernels_serve(x, weight):
        return reference.linear(x, weight, scale, arithmetic)
    return native.linear(x, weight, scale, x.dtype, x_fp8=scale is not None and arithmetic.released)


def linear_wide(x: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    """x [..., in], plain weight [out, in] -> [..., out] float32, for the compressors and the head.

    Released arithmetic evaluates these projections in float32; so do the kernels in either.
    """
    count_linear(x, weight)
    if kernels_serve(x, weight):
        return native.linear(x, weight, None, torch.float32)
    return reference.linear_wide(x, weight, arithmetic)


def grouped_linear(x: Tensor, weight: Tensor, scale: Tensor | None, num_groups: int) -> Tensor:
    """x [n, groups * in], weight [groups * out, in] -> [n, groups * out]: group g's inputs meet its rows alone."""
    count_linear(x, weight, num_groups)
    rows = weight.shape[0] // num_groups
    if quant.is_applied(scale):
        scale = None  # this op never rounds its input
    if scale is None and weight.dtype == x.dtype and kernels_train(x, weight):
        return in_groups(x, weight, num_groups)
    whole_scales = scale is None or weight.dtype == torch.int8 or rows % quant.FP8_BLOCK == 0
    if not (whole_scales and kernels_serve(x, weight)):
        return reference.grouped_linear(x, weight, scale, num_groups)
    scales = [None] * num_groups if scale is None else scale.chunk(num_groups)
    parts = zip(x.chunk(num_groups, -1), weight.chunk(num_groups), scales, strict=True)
    return torch.cat([native.linear(mine, w, s, x.dtype) for mine, w, s in parts], -1)
