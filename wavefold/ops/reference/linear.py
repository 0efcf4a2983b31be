"""y = x Wᵀ, with W in any of the stored formats. Report section 3.4; formats in `wavefold.quant`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wavefold import quant
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.reference.straight_through import straight_through
from wavefold.quant import Weight

ACTIVATION_BLOCK = 128
WIDE_ROWS = 8192
"""Rows of a weight that `linear_wide` converts to its dtype at a time."""


def linear(x: Tensor, weight: Weight, arithmetic: Arithmetic) -> Tensor:
    """x [..., in] in the activation dtype, weight [out, in] -> [..., out] in the activation dtype.

    In released arithmetic the input of a quantized weight goes through FP8 (e4m3, one power-of-two scale per row and
    128 values). All scales are powers of two, so that the decoded operands are exact in bfloat16 and one GEMM with
    float32 accumulation equals the block-scaled GEMM up to the order of the sum.
    """
    if weight.format.is_quantized and arithmetic.released:
        x = rounded_input(x)
    return F.linear(x, weight.decode(x.dtype))


def rounded_input(x: Tensor) -> Tensor:
    """Returns x [..., in] rounded through FP8. The gradient passes unchanged."""
    return straight_through(lambda x: quant.fp8_sim(x, ACTIVATION_BLOCK), x)


def linear_wide(x: Tensor, weight: Weight, arithmetic: Arithmetic) -> Tensor:
    """x [..., in], weight [out, in] without scales -> [..., out] float32, for the compressors and the head.

    The released code evaluates these projections in float32.
    """
    x = x.to(arithmetic.matmul)
    if weight.codes.dtype == x.dtype or weight.shape[0] <= WIDE_ROWS:
        return F.linear(x, weight.decode(x.dtype)).to(arithmetic.accumulate)
    starts = range(0, weight.shape[0], WIDE_ROWS)  # a head is large: never all of it wide
    parts = [F.linear(x, weight.rows(slice(start, start + WIDE_ROWS)).decode(x.dtype)) for start in starts]
    return torch.cat(parts, -1).to(arithmetic.accumulate)


def grouped_linear(x: Tensor, weight: Weight, num_groups: int) -> Tensor:
    """x [n, groups * in], weight [groups * out, in] -> [n, groups * out]: group g's inputs meet only group g's rows.

    The released code decodes this weight (`wo_a`) to bfloat16 and does not quantize its input.
    """
    w = weight.decode(x.dtype).unflatten(0, (num_groups, -1))
    return torch.einsum("ngi,goi->ngo", x.unflatten(-1, (num_groups, -1)), w).flatten(-2)
