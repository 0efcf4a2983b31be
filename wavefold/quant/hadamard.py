"""The orthonormal Walsh-Hadamard transform, which spreads outliers before index queries and keys become FP4.

Sylvester order: H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]]. float32 inside, as in the official code.
"""

from typing import Any

import torch

from .rows import by_rows


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Returns x H / sqrt(n) over the last dimension n, a power of two: a new tensor of x's shape and floating type.

    log2(n) float32 butterflies, one multiplication by n^-1/2, one rounding to x's type. Differentiable, to
    any order. Raises ValueError for another n or type.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise ValueError(f"last dimension {n}; the Hadamard transform takes a power of two")
    if not x.is_floating_point():
        raise ValueError(f"Hadamard transform of {x.dtype}; allowed is a floating type")
    return Hadamard.apply(x)


class Hadamard(torch.autograd.Function):
    """`hadamard` for a checked x. The matrix is symmetric, so the transform is its own backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        (y,) = by_rows(_transform, x.reshape(-1, x.shape[-1]))
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return Hadamard.apply(grads[0])


def _transform(x: torch.Tensor) -> tuple[torch.Tensor]:
    """[rows, n], one chunk. Inside, a vector is a column, so that a butterfly runs over long rows."""
    num_rows, n = x.shape
    y = x.t().float().contiguous()
    sign = torch.ones(2, 1, device=x.device)
    sign[1] = -1
    half = 1
    while half < n:
        pairs = y.reshape(n // (2 * half), 2, half * num_rows)
        # torch.stack((a + b, a - b), 1), where a, b = pairs.unbind(1)
        y = torch.addcmul(pairs[:, :1], pairs[:, 1:], sign)
        half *= 2
    return (y.reshape(n, num_rows).mul_(n**-0.5).to(x.dtype).t().contiguous(),)
