"""y = x Wᵀ, with W in any of the stored formats. The meaning of each: `ops/reference/linear.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold.ops import native
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.flops import count, count_linear
from wavefold.ops.grouped_linear import grouped_linear as in_groups
from wavefold.ops.native import multiply
from wavefold.ops.reference import linear as reference
from wavefold.quant import Weight


def linear(x: Tensor, weight: Weight, arithmetic: Arithmetic) -> Tensor:
    """x [..., in] in the activation dtype, weight [out, in] -> [..., out] in the activation dtype.

    In released arithmetic the input of a quantized weight goes through FP8.
    """
    count_linear(x, weight.codes, packed=weight.packed)
    rounds = weight.format.is_quantized and arithmetic.released
    if rounds:
        count("quantize", 2 * x.numel())
    if products_train(x, [weight]):
        return multiply.linear(x, weight.codes)
    if not (native.takes(weight) and kernels_serve(x, weight.codes)):
        return reference.linear(x, weight, arithmetic)
    return native.linear(x, weight, x.dtype, x_fp8=rounds)


def linears(x: Tensor, weights: Sequence[Weight], arithmetic: Arithmetic) -> list[Tensor]:
    """x [n, in], weights [out, in] -> `linear` of each. The gradient of x is the sum of theirs, rounded once."""
    if not products_train(x, weights):
        return [linear(x, weight, arithmetic) for weight in weights]
    for weight in weights:
        count_linear(x, weight.codes)
    return list(multiply.linears(x, [weight.codes for weight in weights]))


def products_train(x: Tensor, weights: Sequence[Weight], *others: Tensor) -> bool:
    """True if the kernels' products of training take x and the weights. `others`: more of the op's inputs."""
    if any(weight.scales is not None for weight in weights):
        return False
    codes = [weight.codes for weight in weights]
    return multiply.takes(x, *codes) and kernels_train(x, *codes, *others)


def linear_wide(x: Tensor, weight: Weight, arithmetic: Arithmetic) -> Tensor:
    """x [..., in], weight [out, in] without scales -> [..., out] float32, for the compressors and the head.

    Released arithmetic evaluates these projections in float32. The kernels do so in both arithmetics.
    """
    count_linear(x, weight.codes, packed=weight.packed)
    if native.takes(weight) and kernels_serve(x, weight.codes):
        return native.linear(x, weight, torch.float32)
    return reference.linear_wide(x, weight, arithmetic)


def grouped_linear(x: Tensor, weight: Weight, num_groups: int) -> Tensor:
    """x [n, groups * in], weight [groups * out, in] -> [n, groups * out]: group g's inputs meet only group g's rows.

    The input is never rounded, whatever the weight's format.
    """
    codes, scales = weight.codes, weight.scales
    count_linear(x, codes, num_groups, weight.packed)
    rows = weight.shape[0] // num_groups
    if scales is None and codes.dtype == x.dtype and kernels_train(x, codes):
        return in_groups(x, codes, num_groups)
    whole_scales = weight.format.block is None or rows % weight.format.block[0] == 0
    if not (whole_scales and native.takes(weight) and kernels_serve(x, codes)):
        return reference.grouped_linear(x, weight, num_groups)
    parts = [None] * num_groups if scales is None else scales.chunk(num_groups)
    groups = zip(x.chunk(num_groups, -1), codes.chunk(num_groups), parts, strict=True)
    return torch.cat([native.linear(inputs, Weight.of(w, s, weight.packed), x.dtype) for inputs, w, s in groups], -1)
