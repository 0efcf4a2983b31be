"""Root-mean-square norms: with a weight (every block input), without one (query heads). Report section 2."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import counted, values


def rms_norm(x: Tensor, weight: Tensor, eps: float, arithmetic: Arithmetic) -> Tensor:
    """x [..., n], weight [n] -> [..., n] in x's dtype; computed in float32, rounded once."""
    wide = x.to(arithmetic.accumulate)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (weight.to(arithmetic.accumulate) * wide).to(x.dtype)


@counted("norm", lambda x, *_: values(x, 3))
def unit_rms_norm(x: Tensor, eps: float, arithmetic: Arithmetic) -> Tensor:
    """x [..., n] -> x / rms(x) in x's dtype, without a weight.

    The released code works in bfloat16 throughout: it rounds square, mean, + eps, rsqrt and product each.
    """
    if arithmetic.released:
        mean = x.square().to(arithmetic.accumulate).mean(-1, keepdim=True).to(x.dtype)
        return x * (mean + eps).float().rsqrt().to(x.dtype)
    wide = x.to(arithmetic.accumulate)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
