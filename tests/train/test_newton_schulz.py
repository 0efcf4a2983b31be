"""The hybrid Newton-Schulz iteration against singular value decompositions of float64."""

from __future__ import annotations

import pytest
import torch

from wavefold.train.newton_schulz import orthogonalize

SHAPES = [(1, 1), (4, 4), (64, 64), (96, 32), (32, 96), (256, 255)]


def spectrum(shape: tuple[int, int], lowest: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, values, V of a random matrix whose smallest singular value is `lowest` times its Frobenius norm."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(shape)
    u = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(shape[1], rank, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -1, rank, dtype=torch.float64)
    if rank > 1:
        values[-1] = lowest * values[:-1].norm() / (1 - lowest**2) ** 0.5
    return u, values, v


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_singular_values_end_within_a_tenth_of_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Every one that starts at 1e-3 of the Frobenius norm or above."""
    for seed, lowest in enumerate((1e-3, 3e-3, 1e-2)):
        u, values, v = spectrum(shape, lowest, seed)
        assert min(shape) == 1 or float(values[-1] / values.norm()) == pytest.approx(lowest)
        matrix = 37.0 * (u * values) @ v.T
        out = orthogonalize(matrix.float(), dtype).double()
        ended = torch.linalg.svdvals(out)
        assert float(ended.min()) >= 0.9 and float(ended.max()) <= 1.1, (lowest, ended.min(), ended.max())
        rotation = u.T @ out @ v  # the directions stay: U' V'ᵀ of the same matrix
        assert float((rotation - torch.diag(rotation.diag())).norm()) < 0.05 * min(shape) ** 0.5


def test_each_matrix_of_a_batch_is_its_own() -> None:
    batch = torch.randn(3, 2, 24, 40, generator=torch.Generator().manual_seed(0))
    batch[1, 1] *= 1e-6
    together = orthogonalize(batch, torch.float32)
    for i in range(3):
        for j in range(2):
            assert torch.allclose(together[i, j], orthogonalize(batch[i, j], torch.float32), atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1, 7])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_rank_deficient_input_stays_finite(rank: int, size: float) -> None:
    generator = torch.Generator().manual_seed(rank)
    matrix = size * torch.randn(32, rank, generator=generator) @ torch.randn(rank, 48, generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        out = orthogonalize(matrix, dtype)
        assert out.isfinite().all()
        values = torch.linalg.svdvals(out.double())
        assert float(values.max()) <= 1.1 if rank else not out.any()
        strong = values > 0.5
        assert int(strong.sum()) >= min(rank, 1)
