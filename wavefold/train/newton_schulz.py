"""The hybrid Newton-Schulz iteration: the nearest (semi-)orthogonal matrix, by products alone. Report section 2.4.

    X0 = M / |M|_F;   X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X

Eight steps with coefficients that grow small singular values fast and leave all near 1, two that pull them onto 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2
TINY = 1e-30
"""A matrix without a larger absolute value counts as zero and stays zero."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """matrices U S Vᵀ [..., n, m] float32 -> U Vᵀ of the same shape and type. Products are computed in `dtype`.

    A singular value of at least 1e-3 of the Frobenius norm ends within [0.9, 1.1]. A singular value of zero stays zero,
    so a matrix of zeros gives zeros.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp(min=TINY)  # first, since squares of values may overflow
    x = (x / x.square().sum((-2, -1), keepdim=True).sqrt().clamp(min=TINY)).to(dtype).contiguous()
    batch = x.flatten(0, -3) if x.dim() > 3 else x if x.dim() == 3 else x[None]
    for a, b, c in COEFFICIENTS:
        gram = torch.bmm(batch, batch.mT)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        batch = torch.baddbmm(batch, poly, batch, beta=a)
    x = batch.view(x.shape).to(matrices.dtype)
    return x.mT.contiguous() if tall else x
