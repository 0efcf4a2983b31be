"""Products of training, Hadamard transform, Muon's matrices and rounded weights, against float64 and references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.native.test_training import check, error, random
from wavefold import ops, quant
from wavefold.ops import Arithmetic, native
from wavefold.ops.multiply import multiply_
from wavefold.ops.native import expert_grad, hadamard, multiply, orthogonal, round_weights
from wavefold.ops.native.multiply import Product
from wavefold.quant import Weight
from wavefold.train import fake_quant
from wavefold.train.newton_schulz import COEFFICIENTS, orthogonalize

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

SIZES = [(1, 2, 2), (5, 24, 6), (37, 258, 70), (200, 32, 300)]


@pytest.mark.parametrize(("rows", "inner", "outer"), SIZES)
def test_linears(isa: str, rows: int, inner: int, outer: int) -> None:
    x, weights = random(rows, inner).bfloat16(), [random(outer, inner, seed=i).bfloat16() for i in range(2)]
    check(lambda given, arithmetic: ops.linear(given[0], Weight.of(given[1]), arithmetic), [x, weights[0]])  # type: ignore[call-arg]

    def both(given: list[Tensor], arithmetic: Arithmetic) -> tuple[Tensor, ...]:
        return tuple(ops.linears(given[0], [Weight.of(w) for w in given[1:]], arithmetic))  # type: ignore[call-arg]

    check(both, [x, *weights])
    assert multiply.takes(*map(Weight.of, weights)) and not multiply.takes(Weight.of(random(3, inner).bfloat16()))


@pytest.mark.parametrize("depth", [1, 255, 256, 257, 600])
def test_a_product_is_the_sum_of_its_factors(isa: str, depth: int) -> None:
    a, b = random(depth, 19).bfloat16(), random(depth, 67).bfloat16()
    more = random(19, 2 * depth).bfloat16(), random(67, 2 * depth).bfloat16()
    wide = torch.full((19, 80), 3.0)
    multiply.multiply([Product(wide[:, 5:72], (a.T, b), (more[0], more[1].T), more=True)])
    expected = 3 + a.double().T @ b.double() + more[0].double() @ more[1].double().T
    assert error(wide[:, 5:72], expected) < 1e-6
    assert bool((wide[:, :5] == 3).all()) and bool((wide[:, 72:] == 3).all())


def test_products_of_other_shapes_are_refused() -> None:
    a, b, out = random(4, 6).bfloat16(), random(6, 8).bfloat16(), torch.empty(4, 8)
    for factor in ((a, b.T), (a[:, :5], b), (a.float(), b.float())):
        with pytest.raises(ValueError):
            Product(out, factor)
    with pytest.raises(ValueError, match="refused"):  # an odd depth of rows that lie side by side
        multiply.multiply([Product(out, (random(4, 5).bfloat16(), random(5, 8).bfloat16()))])


def test_factors_that_lie_otherwise_are_left_to_torch() -> None:
    """Neither rows nor columns side by side, or pairs of a row that are not aligned: never another product."""
    wide, b = random(4, 12).bfloat16(), random(6, 8).bfloat16()
    with pytest.raises(ValueError, match=r"strides \[12, 2\].* make them contiguous"):
        Product(torch.empty(4, 8), (wide[:, ::2], b))
    for a in (wide[:, ::2], random(4, 7).bfloat16()[:, :6], wide[:, :6], wide[:, :6].T.contiguous().T):
        for factor in (b, b.T.contiguous().T):
            out = torch.empty(4, 8, dtype=torch.bfloat16)
            with ops.using(backend="auto"):
                multiply_(out, a, factor)
            assert error(out, a.double() @ b.double()) < 1e-2


def test_no_rows_have_no_products(isa: str) -> None:
    """As the references do."""
    nothing, weight = torch.empty(0, 64, dtype=torch.bfloat16), Weight.of(random(32, 64).detach().bfloat16())
    with ops.using(backend="auto"):
        assert ops.linear(nothing, weight, Arithmetic()).shape == (0, 32)
        assert ops.linear_wide(nothing, weight, Arithmetic()).shape == (0, 32)


@pytest.mark.parametrize("counts", [[5], [1, 30, 2], [40, 3, 0, 9]])
@pytest.mark.parametrize("routed", [True, False])
def test_experts(isa: str, counts: list[int], routed: bool) -> None:
    hidden, inter, rows = 34, 22, sum(counts)  # at a limit that is not reached: rounding moves values across it
    matrices = [
        matrix.bfloat16()
        for i in range(len(counts))
        for matrix in (
            random(inter, hidden, seed=i) / 3,
            random(hidden, inter, seed=i),
            random(inter, hidden, seed=9 + i),
        )
    ]

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        x, *others = given
        route = others.pop(0) if routed else None
        weights = [tuple(Weight.of(w) for w in others[i : i + 3]) for i in range(0, len(others), 3)]
        return ops.experts(x, route, counts, weights, 30.0, arithmetic)  # type: ignore[call-arg, arg-type]

    used = [m for i, count in enumerate(counts) if count for m in matrices[3 * i : 3 * i + 3]]
    if 0 in counts:
        matrices, counts = used, [count for count in counts if count]
    check(
        op, [random(rows, hidden).bfloat16(), *([random(rows, 1).abs()] if routed else []), *matrices], 1e-2, 8e-3
    )  # gate, up and inner are rounded


def test_experts_of_other_rows_are_refused() -> None:
    x, w = random(4, 6).bfloat16(), random(6, 6).bfloat16()
    with pytest.raises(ValueError, match="do not fit"):
        expert_grad.experts(x, None, [3], [(w, w, w)], 1.0)


@pytest.mark.parametrize("columns", [32, 128, 1024])
def test_hadamard(isa: str, columns: int) -> None:
    x = random(37, columns).bfloat16().requires_grad_()
    out = hadamard.hadamard_fp4(x)
    assert torch.equal(out, quant.fp4_sim(quant.hadamard(x.detach()), 32))
    grad = random(37, columns, seed=3).bfloat16()
    out.backward(grad)
    assert x.grad is not None and error(x.grad, quant.hadamard(grad.double())) < 3e-3
    assert not hadamard.takes(x[:, :24]) and not hadamard.takes(random(2, 2048).bfloat16())


@pytest.mark.parametrize("shape", [(1, 1), (6, 256), (256, 256), (96, 33), (100, 300)])
def test_orthogonal_matrices(isa: str, shape: tuple[int, int]) -> None:
    matrix = random(*shape) * 1e-3
    mine, wide = matrix.clone(), orthogonalize(matrix.double(), torch.float64)
    orthogonal.orthogonalize_([mine], COEFFICIENTS)
    theirs = error(orthogonalize(matrix, torch.bfloat16), wide)
    assert error(mine, wide) < 1.3 * theirs + 1e-3  # both in bfloat16


def test_orthogonal_matrices_of_nothing() -> None:
    zeros, bad = torch.zeros(24, 40), torch.ones(24, 40)
    bad[3, 4] = torch.nan
    orthogonal.orthogonalize_([zeros, bad], COEFFICIENTS)
    assert not zeros.any() and bool(bad.isnan().any())
    with pytest.raises(ValueError, match="not allowed"):
        orthogonal.orthogonalize_([torch.zeros(3, 4).T], COEFFICIENTS)


def test_an_update_of_muon(isa: str) -> None:
    values, momentum, grad = (random(30, 44, seed=i) for i in range(3))
    moved = 0.9 * momentum.double() + grad
    expected = 0.98 * values.double() - 0.3 * orthogonalize(grad + 0.9 * moved, torch.float64)
    orthogonal.muon_([orthogonal.MuonUpdate(values, momentum, grad, 0.98, 0.3)], COEFFICIENTS, 0.9)
    assert error(momentum, moved) < 1e-6 and error(values, expected) < 5e-3


@pytest.mark.parametrize("form", ["fp4", "fp8", "bf16"])
@pytest.mark.parametrize("shape", [(1, 2), (130, 260), (3, 34), (24, 1024)])
def test_rounded_weights_are_those_of_the_formats(form: str, shape: tuple[int, int]) -> None:
    """Bit for bit, over the range of float32."""
    for size in (0.0, 1e-38, 1e-30, 1e-3, 1.0, 1e30):
        weight = random(*shape) * random(*shape, seed=1).exp() * size
        with ops.using(backend="reference"):
            expected = fake_quant.rounded(weight, form, torch.bfloat16)
        got, spread = round_weights.round_weight(weight, form)
        assert torch.equal(got.view(torch.int16), expected.view(torch.int16))
        if form == "fp4":
            scales = quant.quantize_fp4(weight)[1].view(torch.uint8).int()
            scales = scales[scales > 1]
            assert spread == (int(scales.max() - scales.min()) if len(scales) else 0)


def test_a_block_with_nan_is_nan() -> None:
    weight = random(2, 64)
    weight[0, 3], weight[1, 40] = torch.nan, torch.inf
    seen = round_weights.round_weight(weight, "fp4")[0].isnan()
    assert seen[0].tolist() == [True] * 32 + [False] * 32 and seen[1].tolist() == [False] * 32 + [True] * 32
