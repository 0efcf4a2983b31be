"""The rounding of a stored KV entry: FP8 for dims without position, bfloat16 for rotated dims. Report section 3.4."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import count
from wavefold.ops.reference.straight_through import straight_through

KV_BLOCK = 64


def kv_sim(kv: Tensor, rope_dim: int, arithmetic: Arithmetic) -> Tensor:
    """kv [n, c] -> kv with its first c - rope_dim dims rounded to FP8 (blocks of 64). Exact: kv unchanged."""
    if not arithmetic.released:
        return kv
    split = kv.shape[-1] - rope_dim
    count("quantize", 2 * kv.shape[0] * split)
    if not split:  # all dims carry a position and stay in bfloat16
        return kv
    plain = straight_through(lambda x: quant.fp8_sim(x, KV_BLOCK), kv[..., :split])
    return torch.cat((plain, kv[..., split:]), -1)
