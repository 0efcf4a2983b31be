"""The hybrid Newton-Schulz iteration: the nearest (semi-)orthogonal matrix, by products alone. Report section 2.4.

    X0 = M / |M|_F;   X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X

Eight steps with coefficients that grow small singular values fast and leave all near 1, two that pull them onto 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold import ops

COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2
TINY = 1e-30
"""A matrix without a larger absolute value counts as zero and stays zero."""
BATCH_NUMBERS = 1 << 22
"""Largest number of values of equal matrices that are stacked: few calls, with bounded memory."""


def orthogonalize_(matrices: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Replaces each matrix [n, m] float32 by `orthogonalize` of it: by the CPU kernels, or equal shapes together."""
    alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    natively: list[Tensor] = []
    for matrix in matrices:
        if dtype == torch.bfloat16 and ops.kernels_orthogonalize(matrix):
            natively.append(matrix)
        else:
            alike[tuple(matrix.shape)].append(matrix)
    ops.orthogonalize_(natively, COEFFICIENTS)
    for (n, m), members in alike.items():
        most = max(1, BATCH_NUMBERS // (n * m))
        for first in range(0, len(members), most):
            batch = members[first : first + most]
            for matrix, result in zip(batch, orthogonalize(torch.stack(batch), dtype), strict=True):
                matrix.copy_(result)


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
