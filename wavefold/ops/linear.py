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
        return multiply.linear(reference.rounded_input(x) if rounds else x, weight.decode(x.dtype))
    stored = weight.plain
    if not (native.takes(stored) and kernels_serve(x, weight.codes)):
        return reference.linear(x, weight, arithmetic)
    return native.linear(x, stored, x.dtype, x_fp8=rounds)


def linears(x: Tensor, weights: Sequence[Weight], arithmetic: Arithmetic) -> list[Tensor]:
    """x [n, in], weights [out, in] -> `linear` of each. The gradient of x is the sum of theirs.

    The sum is rounded once, except in released arithmetic, where each quantized weight rounds x for itself.
    """
    rounds = arithmetic.released and any(weight.format.is_quantized for weight in weights)
    if rounds or not products_train(x, weights):
        return [linear(x, weight, arithmetic) for weight in weights]
    for weight in weights:
        count_linear(x, weight.codes, packed=weight.packed)
    return list(multiply.linears(x, [weight.decode(x.dtype) for weight in weights]))


def products_train(x: Tensor, weights: Sequence[Weight], *others: Tensor) -> bool:
    """True if the kernels' products of training take x and the weights' values. `others`: more of the op's inputs."""
    codes = [weight.codes for weight in weights]
    return multiply.takes(*weights) and kernels_train(x, *codes, *others)


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
    count_linear(x, weight.codes, num_groups, weight.packed)
    if kernels_train(x, weight.codes):
        return in_groups(x, weight.decode(x.dtype), num_groups)
    stored, rows = weight.plain, weight.shape[0] // num_groups
    if not (native.takes(stored) and kernels_serve(x, weight.codes)):
        return reference.grouped_linear(x, weight, num_groups)
    if stored.format.block is not None and rows % stored.format.block[0]:  # a group begins amid a scale's rows
        stored = Weight.of(stored.decode(x.dtype))
    codes, scales, packed = stored.codes.chunk(num_groups), stored.scales, stored.packed
    parts = [None] * num_groups if scales is None else scales.chunk(num_groups)
    groups = zip(x.chunk(num_groups, -1), codes, parts, strict=True)
    return torch.cat([native.linear(inputs, Weight.of(w, s, packed), x.dtype) for inputs, w, s in groups], -1)
