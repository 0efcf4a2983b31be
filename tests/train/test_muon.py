"""Muon: the report's update, for each independent matrix, and nothing for a matrix without a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wavefold.train.muon import Muon
from wavefold.train.newton_schulz import COEFFICIENTS


def exact(matrix: torch.Tensor) -> torch.Tensor:
    """U Vᵀ, by decomposition."""
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vt


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def test_two_steps_are_the_reports_formula() -> None:
    w, lr, mu, decay, rms = parameter(24, 40), 0.1, 0.95, 0.1, 0.18
    expected, momentum = w.detach().double().clone(), torch.zeros(24, 40, dtype=torch.float64)
    optimizer = Muon([{"params": [w]}], lr=lr, momentum=mu, weight_decay=decay, rms=rms)
    for seed in (1, 2):
        w.grad = parameter(24, 40, seed=seed).detach()
        momentum = mu * momentum + w.grad.double()
        update = exact(mu * momentum + w.grad.double()) * 40**0.5 * rms
        expected = expected * (1 - lr * decay) - lr * update
        optimizer.step()
    assert float((w.detach() - expected).norm() / (lr * update).norm()) < 0.1  # Newton-Schulz ends within a tenth


@pytest.mark.parametrize(("dtype", "least", "most"), [(torch.float32, 0.0, 1e-5), (torch.bfloat16, 1e-4, 0.05)])
def test_products_are_taken_in_the_asked_for_type(dtype: torch.dtype, least: float, most: float) -> None:
    w = parameter(24, 40)
    before = w.detach().clone()
    w.grad = parameter(24, 40, seed=1).detach()
    u, s, vt = torch.linalg.svd(w.grad.double(), full_matrices=False)
    s = s / s.norm()
    for a, b, c in COEFFICIENTS:
        s = a * s + b * s**3 + c * s**5
    Muon([{"params": [w]}], lr=1.0, momentum=0.0, weight_decay=0.0, rms=40**-0.5, dtype=dtype).step()
    assert least <= float((before - w.detach() - (u * s) @ vt).norm() / s.norm()) < most


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_an_updates_root_mean_square_is_the_asked_for_one(shape: tuple[int, int]) -> None:
    w = parameter(*shape)
    before = w.detach().clone()
    w.grad = parameter(*shape, seed=1).detach()
    Muon([{"params": [w]}], lr=1.0, weight_decay=0.0, rms=0.18).step()
    update = (w.detach() - before).square().mean().sqrt()
    full = (min(shape) / max(shape)) ** 0.5 * (max(shape) / min(shape)) ** 0.5  # of an orthogonal matrix: 1
    assert float(update) == pytest.approx(0.18 * full, rel=0.06)


def test_parts_are_matrices_of_their_own() -> None:
    whole, parts = parameter(20, 32), [parameter(10, 32), parameter(10, 32)]
    for part, rows in zip(parts, whole.detach().split(10), strict=True):
        part.data.copy_(rows)
    whole.grad = parameter(20, 32, seed=5).detach()
    whole.grad[:10] *= 100
    for part, rows in zip(parts, whole.grad.split(10), strict=True):
        part.grad = rows.clone()
    Muon([{"params": [whole], "parts": 2}], lr=0.1).step()
    Muon([{"params": parts}], lr=0.1).step()
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)


def test_a_matrix_without_gradient_is_left_alone() -> None:
    """An expert that no token chose: no decay, no momentum, no state."""
    chosen, other = parameter(8, 8), parameter(8, 8, seed=1)
    before = other.detach().clone()
    optimizer = Muon([{"params": [chosen, other]}], lr=0.1)
    chosen.grad = torch.ones(8, 8)
    optimizer.step()
    assert torch.equal(other, before) and other not in optimizer.state
    assert chosen in optimizer.state


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[8\] is not allowed"):
        Muon([{"params": [parameter(8)]}])
