"""The choice between CPU kernels and references. The current runtime may ask for references.

"auto"         kernels where they can compute (bfloat16 activations on a CPU), references elsewhere
"reference"    plain torch throughout
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops import native
from wavefold.ops.flops import is_counting
from wavefold.ops.runtime import current


def kernels_run(dtype: torch.dtype, device: torch.device) -> bool:
    """True if the CPU kernels run whole layers for activations of this dtype. False while operations are counted."""
    return (
        current().backend == "auto"
        and dtype == torch.bfloat16
        and device.type == "cpu"
        and native.available()
        and not is_counting()
    )


def kernels_train(*tensors: Tensor) -> bool:
    """True if gradients are wanted and the CPU kernels can compute them for these tensors, activations first."""
    return (
        current().backend == "auto"
        and tensors[0].dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and tensors[0].numel() > 0
        and native.available()
    )


def kernels_serve(*tensors: Tensor) -> bool:
    """True if the CPU kernels can compute with these tensors, activations first, and no gradient is wanted."""
    return (
        current().backend == "auto"
        and tensors[0].dtype == torch.bfloat16
        and tensors[0].numel() > 0
        and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors[1:])
        and tensors[0].device.type == "cpu"
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and native.available()
    )
