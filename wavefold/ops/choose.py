"""The choice of tokens from logits by the CPU kernels. engine/choosing.py says in torch what they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.native import Choice, available, choose
from wavefold.ops.runtime import current

__all__ = ["Choice", "choose", "kernels_choose"]


def kernels_choose(logits: Tensor) -> bool:
    """True if the CPU kernels can choose from these logits, [n, vocab]."""
    return (
        current().backend == "auto"
        and logits.dtype == torch.float32
        and logits.is_cpu
        and logits.numel() > 0
        and available()
    )
