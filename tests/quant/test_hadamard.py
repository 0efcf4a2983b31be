"""The Hadamard transform against scipy in float64, forward and gradient."""

import numpy as np
import pytest
import scipy.linalg
import torch

from wavefold.quant import hadamard

SIZES = [2**k for k in range(10)]


def exact(x: torch.Tensor) -> np.ndarray:
    n = x.shape[-1]
    return x.detach().double().numpy() @ scipy.linalg.hadamard(n).astype(np.float64) / np.sqrt(n)


def relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.sqrt(np.mean((ours.detach().double().numpy() - theirs) ** 2) / np.mean(theirs**2)))


@pytest.mark.parametrize("n", SIZES)
def test_columns_are_scipys_in_order_and_sign(n):
    expected = torch.from_numpy(scipy.linalg.hadamard(n)).float() * n**-0.5
    assert torch.equal(hadamard(torch.eye(n)), expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-7), (torch.bfloat16, 2.5e-3)])
def test_random_rows_match_float64(n, dtype, tolerance):
    x = torch.randn(3, 50, n, generator=torch.Generator().manual_seed(n)).to(dtype)
    y = hadamard(x)
    assert y.dtype == dtype and y.shape == x.shape
    assert relative_error(y, exact(x)) < tolerance


def test_many_rows_go_through_in_chunks():
    x = torch.randn(9001, 128, generator=torch.Generator().manual_seed(0))
    y = hadamard(x)
    assert torch.equal(y[8999:], hadamard(x[8999:]))
    assert relative_error(y, exact(x)) < 3e-7


def test_it_is_its_own_inverse_and_keeps_the_norm():
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    y = hadamard(x)
    torch.testing.assert_close(hadamard(y), x, rtol=0, atol=2e-6)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


def test_gradient_is_the_transform_of_the_gradient():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 7, 32, generator=generator, requires_grad=True)
    upstream = torch.randn(5, 7, 32, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(hadamard(x), x, upstream, create_graph=True)
    assert relative_error(gradient, exact(upstream)) < 3e-7
    (second,) = torch.autograd.grad(gradient, upstream, x)
    assert relative_error(second, exact(x)) < 3e-7
    assert not hadamard(x.detach()).requires_grad


def test_strides_and_no_rows():
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(hadamard(x.t()), hadamard(x.t().contiguous()))
    assert hadamard(torch.empty(0, 8)).shape == (0, 8)
    assert hadamard(x[:, 0]).shape == (8,)


@pytest.mark.parametrize("n", [0, 3, 96])
def test_other_lengths_are_refused(n):
    with pytest.raises(ValueError, match=rf"dimension {n};.*power of two"):
        hadamard(torch.zeros(2, n))


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"torch\.int64"):
        hadamard(torch.zeros(2, 4, dtype=torch.int64))
