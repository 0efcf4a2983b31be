"""Muon's orthogonal matrices and weights seen rounded, by the CPU kernels.

Their meanings are `train/newton_schulz.py`, and `quant/blocks.py` as `train/fake_quant.py` uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.native import available, orthogonal
from wavefold.ops.native.orthogonal import MuonUpdate, muon_, orthogonalize_
from wavefold.ops.native.round_weights import round_weight
from wavefold.ops.runtime import current

__all__ = ["MuonUpdate", "kernels_orthogonalize", "kernels_round", "muon_", "orthogonalize_", "round_weight"]

ROUNDED_FORMS = ("fp4", "fp8", "bf16")


def kernels_orthogonalize(*matrices: Tensor) -> bool:
    """True if the CPU kernels can orthogonalize the matrices, of one shape, with products in bfloat16."""
    return current().backend == "auto" and orthogonal.takes(*matrices) and available()


def kernels_round(weight: Tensor, form: str, dtype: torch.dtype) -> bool:
    """True if the CPU kernels can round the weight to a form and decode it to `dtype`."""
    return (
        current().backend == "auto"
        and form in ROUNDED_FORMS
        and dtype == torch.bfloat16
        and weight.dtype == torch.float32
        and weight.dim() == 2
        and weight.is_cpu
        and weight.numel() > 0
        and (form != "fp4" or weight.shape[1] % 2 == 0)
        and available()
    )
