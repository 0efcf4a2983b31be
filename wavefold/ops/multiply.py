"""A product of matrices in place, for training's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.native import available, multiply
from wavefold.ops.runtime import current


def multiply_(out: Tensor, a: Tensor, b: Tensor, more: bool = False) -> None:
    """out = a b, of one floating dtype; with `more`, out += a b in a wider `out`.

    The rows of `out` are contiguous, and so are those of a and b or of their transposes.
    """
    kernels = current().backend == "auto" and a.dtype == torch.bfloat16 and a.is_cpu and len(out) > 0 and available()
    if kernels and multiply.takes_product(a, b):
        multiply.multiply([multiply.Product(out, (a, b), more=more)])
    elif more:
        out += a @ b
    else:
        torch.mm(a, b, out=out)
