"""Who computes: the CPU kernels where they serve, else the references. One switch for the process.

"auto"         kernels for what they take (bfloat16 activations on a CPU), references for the rest
"reference"    plain torch throughout
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from wavefold.ops import native
from wavefold.ops.flops import is_counting

BACKENDS = ("auto", "reference")

_backend = "auto"


def use_backend(name: str) -> None:
    """Turn the switch. Raises ValueError for another name."""
    global _backend
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not allowed; expected one of {', '.join(BACKENDS)}")
    _backend = name


@contextlib.contextmanager
def using_backend(name: str) -> Iterator[None]:
    """Turn it for a block."""
    before = _backend
    use_backend(name)
    try:
        yield
    finally:
        use_backend(before)


def kernels_run(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the CPU kernels run whole layers for activations of this dtype: not while operations are counted."""
    return (
        _backend == "auto"
        and dtype == torch.bfloat16
        and device.type == "cpu"
        and native.available()
        and not is_counting()
    )


def kernels_train(*tensors: Tensor) -> bool:
    """Whether the CPU kernels make these's gradients, which are wanted: the activations first, bfloat16."""
    return (
        _backend == "auto"
        and tensors[0].dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and tensors[0].numel() > 0
        and native.available()
    )


def kernels_serve(*tensors: Tensor) -> bool:
    """Whether the CPU kernels take these: the activations first, bfloat16."""
    return (
        _backend == "auto"
        and tensors[0].dtype == torch.bfloat16
        and all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors[1:])
        and tensors[0].device.type == "cpu"
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and native.available()
    )
