"""RMS norm of bfloat16 rows."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.native.library import check, require, runtime


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x bfloat16 [..., n], weight bfloat16 [n] -> [..., n]. Raises ValueError for tensors that do not fit."""
    if x.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"x {list(x.shape)} of {x.dtype} and weight {list(weight.shape)} of {weight.dtype} do not fit; expected "
            "bfloat16 [..., n] and [n]"
        )
    x = x.contiguous()
    out = torch.empty_like(x)
    rows = x.numel() // x.shape[-1]
    check(require().wf_rms_norm(runtime(), x.data_ptr(), weight.data_ptr(), rows, x.shape[-1], eps, out.data_ptr()))
    return out
