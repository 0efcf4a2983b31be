"""mHC on the CPU kernels against the references: float32 to its rounding, bfloat16 to its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wavefold.ops import Arithmetic, native
from wavefold.ops.native import hyper_connection as kernels
from wavefold.ops.reference import hyper_connection as reference

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

RELEASED = Arithmetic("released", torch.bfloat16)
ITERS, EPS, NORM_EPS = 20, 1e-6, 1e-6


def inputs(tokens: int, streams: int, hidden: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(tokens + 10 * streams + hidden)
    outputs = 2 * streams + streams**2
    return {
        "x": torch.randn(tokens, streams, hidden, generator=generator).bfloat16(),
        "f": torch.randn(tokens, hidden, generator=generator).bfloat16(),
        "fn": torch.randn(outputs, streams * hidden, generator=generator) / (streams * hidden) ** 0.5,
        "base": torch.randn(outputs, generator=generator),
        "scale": torch.rand(3, generator=generator) * 2,
    }


@pytest.mark.parametrize("hidden", [1, 30, 64, 256])
@pytest.mark.parametrize("streams", [1, 2, 4, 8])
@pytest.mark.parametrize("tokens", [1, 3, 50])
def test_as_the_references(tokens: int, streams: int, hidden: int) -> None:
    given = inputs(tokens, streams, hidden)
    mix = (given["fn"], given["base"], given["scale"], ITERS, EPS, NORM_EPS)
    got = kernels.hc_weights(given["x"], *mix)
    expected = reference.hc_weights(given["x"], *mix, RELEASED)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=2e-5, atol=2e-6)
    pre, post, comb = expected
    collapsed, wanted = kernels.hc_collapse(given["x"], pre), reference.hc_collapse(given["x"], pre)
    size = (pre[..., None] * given["x"].abs()).sum(1)  # what cancels is rounded at its own size
    assert ((collapsed.float() - wanted.float()).abs() <= 2**-7 * wanted.float().abs() + 1e-6 * size).all()
    head = (given["fn"][:streams], given["base"][:streams], given["scale"][:1], EPS, NORM_EPS)
    collapsed, wanted = kernels.hc_head(given["x"], *head), reference.hc_head(given["x"], *head, RELEASED)
    assert ((collapsed.float() - wanted.float()).abs() <= 2**-7 * wanted.float().abs() + 1e-5 * size).all()
    expanded = kernels.hc_expand(given["f"], given["x"], post, comb)
    assert torch.equal(expanded, reference.hc_expand(given["f"], given["x"], post, comb, RELEASED))  # to the bit


def test_a_token_does_not_depend_on_the_others() -> None:
    given = inputs(8, 4, 96)
    mix = (given["fn"], given["base"], given["scale"], ITERS, EPS, NORM_EPS)
    whole = kernels.hc_weights(given["x"], *mix)
    for token in range(8):
        alone = kernels.hc_weights(given["x"][token : token + 1], *mix)
        assert all(torch.equal(mine[0], theirs[token]) for mine, theirs in zip(alone, whole, strict=True))


def test_one_round_and_extreme_mixes() -> None:
    mixes = torch.tensor([[0.0] * 24, [200.0] * 24, [-200.0] * 24, [100.0, -100.0] * 12])
    base, scale = torch.zeros(24), torch.ones(3)
    for iters in (1, 3, 20):
        got = kernels.hc_split(mixes, base, scale, 4, iters, EPS)
        expected = reference.hc_split(mixes, base, scale, 4, iters, EPS, RELEASED)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(got, expected, strict=True))


def test_what_does_not_fit_is_a_value_error() -> None:
    given = inputs(2, 4, 16)
    pre, post, comb = torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="do not fit"):
        kernels.hc_split(torch.zeros(2, 23), given["base"], given["scale"], 4, ITERS, EPS)
    with pytest.raises(ValueError, match="does not fit streams"):
        kernels.hc_collapse(given["x"], pre[:1])
    with pytest.raises(ValueError, match="do not fit streams"):
        kernels.hc_expand(given["f"][:, :8], given["x"], post, comb)
    with pytest.raises(ValueError, match="take bfloat16"):
        kernels.hc_expand(given["f"].float(), given["x"], post, comb)
    nine = torch.ones(1, 9, 4, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="a size is not positive or too large"):
        kernels.hc_collapse(nine, torch.ones(1, 9))
    with pytest.raises(ValueError, match="a size is not positive or too large"):
        kernels.hc_split(torch.zeros(2, 24), given["base"], given["scale"], 4, 0, EPS)
