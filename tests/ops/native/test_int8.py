"""Products with int8 activations against the same arithmetic in plain torch: rounded operands, float64 sums.

The kernels' dot products of 32 columns are exact, and float32 adds them: within 2e-6 of the terms' size.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.native.test_blocks import matrix
from tests.ops.native.test_linear import decoded, stored
from wavefold import ops, quant
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.ops import Arithmetic, native
from wavefold.quant import FORMATS, Weight

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

SHAPES = [(256, 512), (100, 384), (130, 96), (16, 4096), (33, 32), (7, 2), (1, 160), (70, 1090), (128, 130)]
TOLERANCE = 2e-6
Stored = tuple[Tensor, Tensor]


def groups(x: Tensor, size: int) -> Tensor:
    """[rows, columns] -> [rows, groups, size], zeros behind the last column."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))


def rounded_x(x: Tensor, size: int = 32, limit: float = 127) -> Tensor:
    """x through int8, in float64: a scale amax / 127 for each 32 columns."""
    grouped = groups(x.float(), size)
    amax = grouped.abs().amax(-1, keepdim=True)
    reciprocal = torch.full_like(amax, limit) / amax  # a plain number over a tensor is rounded twice
    codes = (grouped * reciprocal.nan_to_num(0, 0, 0)).round()
    return (codes.double() * (amax / limit)).flatten(1)[:, : x.shape[1]]


def rounded_weight(weight: Tensor, scale: Tensor, lost: int = 0) -> Tensor:
    """A weight as it is multiplied, in float64: FP4 exactly, FP8 to multiples of 2^(top - 13) for each 128 columns."""
    values = decoded(weight, scale)
    if weight.dtype != torch.float8_e4m3fn:
        return values
    exponents = groups((weight.view(torch.uint8) & 127) >> 3, 128).amax(-1, keepdim=True).int()
    unit = torch.exp2(exponents.clamp(min=4).double() - 13 + lost)
    scales = scale.double().repeat_interleave(128, 0)[: len(weight), :, None]
    return ((groups(weight.double(), 128) / unit).round() * unit * scales).flatten(1)[:, : weight.shape[1]]


def int8(weight: Stored | Weight, x: Tensor, dtype: torch.dtype = torch.float32, x_fp8: bool = False) -> Tensor:
    """The kernels' products, in int8 for any number of rows."""
    stored_weight = weight if isinstance(weight, Weight) else Weight.of(*weight)
    with ops.using(activations="int8", batch_invariant=True, backend="auto"):
        return native.linear(x, stored_weight, dtype, x_fp8)


def agrees(y: Tensor, x: Tensor, w: Tensor) -> bool:
    """True if y is the product of x and w but for float32's rounding."""
    return bool(((y - x @ w.T).abs() <= TOLERANCE * (x.abs() @ w.abs().T)).all())


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("form", ["fp4", "fp8"])
def test_products(isa: str, form: str, rows: int, columns: int) -> None:
    weight = stored(form, rows, columns)
    for x_rows in (1, 2, 5, 6, 7, 13, 401):
        x = normal(x_rows, columns, x_rows)
        y = int8(weight, x)
        assert agrees(y, rounded_x(x), rounded_weight(*weight)), x_rows
        assert torch.equal(int8(weight, x, torch.bfloat16), y.bfloat16())
        assert torch.equal(int8(weight, x, x_fp8=True), y), "int8 takes the place of released arithmetic's FP8"


def moved(scale: Tensor, dim: int) -> Tensor:
    """Scales that stand one place later."""
    return scale.view(torch.uint8).roll(1, dim).view(scale.dtype)


MUTANTS: dict[str, Callable[[Tensor, Stored], tuple[Tensor, Tensor]]] = {
    "x has one scale for 64 columns": lambda x, w: (rounded_x(x, 64), rounded_weight(*w)),
    "x's scale is that of the next group": lambda x, w: (
        rounded_x(x) * groups(x, 32).abs().amax(-1).roll(1, 1).double().repeat_interleave(32, 1)
        / groups(x, 32).abs().amax(-1).double().repeat_interleave(32, 1), rounded_weight(*w)),
    "x's limit is 128": lambda x, w: (rounded_x(x, limit=128), rounded_weight(*w)),
    "x is not rounded": lambda x, w: (x.double(), rounded_weight(*w)),
    "FP8 loses a bit": lambda x, w: (rounded_x(x), rounded_weight(*w, lost=1)),
    "FP8 is not rounded": lambda x, w: (rounded_x(x), decoded(*w)),
    "the weight's scale is the next row's": lambda x, w: (rounded_x(x), rounded_weight(w[0], moved(w[1], 0))),
    "the weight's scale is that of the next columns": lambda x, w: (rounded_x(x), rounded_weight(w[0], moved(w[1], 1))),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_check_sees_a_wrong_variant(mutant: str) -> None:
    seen = []
    for form in ("fp4", "fp8"):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(256, 512, generator=generator) * torch.exp2(
            torch.arange(256)[:, None] // 128 + torch.arange(512)[None] // 128
        )
        weight = quant.quantize_fp4(values) if form == "fp4" else quant.quantize_fp8(values)
        x = (normal(9, 512, 1).float() * torch.exp(torch.arange(512) // 32 % 3)).bfloat16()
        y = int8(weight, x)
        assert agrees(y, rounded_x(x), rounded_weight(*weight))
        seen.append(not agrees(y, *MUTANTS[mutant](x, weight)))
    assert seen[1] and (seen[0] or mutant.startswith("FP8"))


@pytest.mark.parametrize("spread", [1, 3, 4, 30])
def test_every_fp4_code(isa: str, spread: int) -> None:
    """All bytes; scales of a row 2^(spread - 1) apart: up to 3 codes are shifted, beyond, sums multiplied."""
    generator = torch.Generator().manual_seed(spread)
    codes = torch.stack([torch.arange(256)[torch.randperm(256, generator=generator)] for _ in range(70)])
    scales = torch.randint(127, 128 + spread, (70, 16), generator=generator) - torch.arange(70)[:, None]
    weight = codes.to(torch.uint8).view(torch.int8), scales.to(torch.uint8).view(torch.float8_e8m0fnu)
    x = normal(8, 512)
    assert agrees(int8(weight, x), rounded_x(x), rounded_weight(*weight))


def test_every_fp8_code_below_every_exponent(isa: str) -> None:
    """Row t's largest exponent is t: all codes up to it and their negatives, subnormal ones and zero among them."""
    columns = [torch.arange(256) % (8 * (top + 1)) + 128 * (torch.arange(256) // 128) for top in range(16)]
    codes = torch.stack(columns).to(torch.uint8)
    codes[(codes & 127) == 127] = 0
    for byte in (1, 100, 127, 180):
        scale = torch.full((1, 2), byte, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        weight = codes.view(torch.float8_e4m3fn), scale
        single = torch.eye(256, dtype=torch.bfloat16)  # y is the weight itself
        expected = rounded_weight(*weight).T
        assert torch.allclose(int8(weight, single).double(), expected, rtol=1e-6, atol=0)
        x = normal(7, 256)
        assert agrees(int8(weight, x), rounded_x(x), rounded_weight(*weight))


@pytest.mark.parametrize("most", [71, 100, 126])
def test_every_fp8_code_of_a_usual_row(isa: str, most: int) -> None:
    """Codes up to `most`, in rows and columns that are no whole tile; their exponents are 8 at least."""
    generator = torch.Generator().manual_seed(most)
    codes = torch.randint(0, most + 1, (130, 200), generator=generator) + 128 * torch.randint(0, 2, (130, 200))
    codes[:, [0, 150]] = most
    scale = torch.randint(110, 130, (2, 2), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    weight = codes.to(torch.uint8).view(torch.float8_e4m3fn), scale
    single = torch.eye(200, dtype=torch.bfloat16)
    assert torch.allclose(int8(weight, single).double(), rounded_weight(*weight).T, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["fp4", "fp8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_not_lost(isa: str, form: str, bad: float) -> None:
    weight, x = stored(form, 70, 160), normal(9, 160)
    expected = int8(weight, x)
    for column in (0, 31, 32, 159):
        spoiled = x.clone()
        spoiled[4, column] = bad
        y = int8(weight, spoiled)
        assert y[4].isnan().all()
        assert torch.equal(y[[0, 3, 5, 8]], expected[[0, 3, 5, 8]])


def test_a_nan_of_the_weight_is_not_lost(isa: str) -> None:
    x = normal(9, 160)
    weight, scale = stored("fp8", 70, 160)
    for row, column, code in ((0, 0, 127), (33, 127, 255), (69, 159, 127)):
        spoiled = weight.clone()
        spoiled.view(torch.uint8)[row, column] = code
        y = int8((spoiled, scale), x)
        assert y[:, row].isnan().all() and y.isnan().sum() == 9
    for form, row, column in (("fp4", 5, 4), ("fp4", 69, 0), ("fp8", 0, 1)):
        weight, scale = stored(form, 70, 160)
        scale.view(torch.uint8)[row, column] = 255
        rows = int8((weight, scale), x).isnan().all(0)
        assert rows[row] and rows.sum() == (1 if form == "fp4" else 70)


@pytest.mark.parametrize("form", ["fp4", "fp8"])
def test_zeros_and_tiny_values_are_zero(isa: str, form: str) -> None:
    weight, x = stored(form, 33, 96), torch.full((7, 96), 2.0**-101, dtype=torch.bfloat16)
    assert not int8(weight, x).any() and not int8(weight, torch.zeros_like(x)).any()
    assert int8(weight, 2 * x).any()


@pytest.mark.parametrize("form", ["fp4", "fp8"])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(isa: str, form: str) -> None:
    """Also on any instruction set with a multiply-add, and on any number of threads."""
    weight, x = stored(form, 200, 640), normal(400, 640)
    together = int8(weight, x)
    for count in (1, 3, 5, 6, 12, 17):
        assert torch.equal(int8(weight, x[7 : 7 + count]), together[7 : 7 + count])
    for threads in (1, 2, 3):
        with ops.using(threads=threads):
            assert torch.equal(int8(weight, x), together)
    with ops.using(isa=ops.isas()[0]):
        assert isa == "generic" or torch.equal(int8(weight, x), together)


def test_a_few_rows_are_as_without_int8(isa: str) -> None:
    """Up to 8 rows of FP4 and 16 of FP8, and matrices in bfloat16 and float32 in any case."""
    for form, most in (("fp4", 8), ("fp8", 16), ("bf16", 40), ("fp32", 40)):
        weight = Weight.of(*stored(form, 64, 256))
        for rows in (1, most, most + 1):
            x = normal(rows, 256)
            default = native.linear(x, weight, torch.float32)
            with ops.using(activations="int8", backend="auto"):
                y = native.linear(x, weight, torch.float32)
            assert torch.equal(y, default) == (rows <= most or form in ("bf16", "fp32")), (form, rows)


@pytest.mark.parametrize(("form", "limit"), [("fp4", 6e-3), ("fp8", 8e-3)])
def test_error_beside_float64(form: str, limit: float) -> None:
    """RMS over RMS for normal operands: 5.4e-3 is that of x, 4.7e-3 that of FP8; a result in bfloat16 has 1.7e-3."""
    values = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0))
    weight = quant.quantize_fp4(values) if form == "fp4" else quant.quantize_fp8(values)
    x = normal(64, 4096, 1)
    exact = x.double() @ decoded(*weight).T
    error = float((int8(weight, x) - exact).norm() / exact.norm())
    assert 5e-3 < error < limit


def test_a_model_in_int8() -> None:
    """Distances from exact arithmetic: int8 adds less to it than released's roundings do, and little to these.

    Products of matrices in int8 and in bfloat16 share calls.
    """
    config = ModelConfig.preset("nano").replace(vocab_size=500)
    tokens = torch.randint(0, 500, (140,), generator=torch.Generator().manual_seed(0))
    log_p = {}
    for arithmetic in ("exact", "released"):
        model = random_model(config, 0, Arithmetic(arithmetic, torch.bfloat16), packed=True)
        for activations in ops.ACTIVATIONS:
            model.runtime = ops.current().but(activations=activations, backend="auto")
            sequence = model.new_pool(200).open()
            logits = model.logits(model.extend(tokens, [sequence], [140]))
            log_p[arithmetic, activations] = logits.double().log_softmax(-1)
    true = log_p["exact", "bf16"]
    distance = {name: float((true.exp() * (true - q)).sum(-1).mean()) for name, q in log_p.items()}
    assert 0 < distance["exact", "int8"] < distance["released", "bf16"] / 2
    assert distance["released", "int8"] < 1.2 * distance["released", "bf16"]


def test_settings() -> None:
    runtime = ops.Runtime(activations="int8", backend="auto")
    assert "activations=int8" in repr(runtime) and "activations" not in repr(ops.Runtime())
    assert runtime.but(threads=1).activations == "int8" and runtime.but(activations="bf16").activations == "bf16"
    with pytest.raises(ValueError, match="activations = int4 is not allowed; expected one of bf16, int8"):
        ops.Runtime(activations="int4")
    with pytest.raises(ValueError, match="activations = int8 is for the CPU kernels"):
        ops.Runtime(activations="int8", backend="reference")


@pytest.mark.parametrize(("rows", "columns"), [(64, 512), (70, 160), (130, 96), (1, 32), (9, 4096)])
@pytest.mark.parametrize("name", ["MXFP4", "Q8_0"])
def test_blocks_of_32(isa: str, name: str, rows: int, columns: int) -> None:
    """GGUF's blocks: their codes are integers, and their scales those of the groups."""
    weight = Weight.of(matrix(name, rows, columns).kept[0].view(rows, -1), None, FORMATS[name.lower()])
    values = weight.decode(torch.float32).double()
    for x_rows in (1, 7, 40, 401):
        x = normal(x_rows, columns, x_rows)
        y = int8(weight, x)
        assert agrees(y, rounded_x(x), values), x_rows
        assert torch.equal(int8(weight, x[-1:].contiguous()), y[-1:])
        assert torch.equal(int8(weight, x, torch.bfloat16), y.bfloat16())
    with ops.using(activations="int8", backend="auto"):
        assert torch.equal(native.linear(x, weight, torch.float32), y)


@pytest.mark.parametrize("name", ["MXFP4", "Q8_0"])
def test_every_code_of_blocks(isa: str, name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    size = {"MXFP4": 17, "Q8_0": 34}[name]
    blocks = torch.stack([torch.arange(256)[torch.randperm(256, generator=generator)] for _ in range(17 * 34)])
    codes = blocks.flatten()[: 64 * 16 * size].view(64, 16 * size).to(torch.uint8)
    if name == "Q8_0":
        codes[:, 1::size] = 0x18  # scales as they are in a model: halves from 2^-9 on
    else:
        codes[:, ::size] = 120
    weight = Weight.of(codes, None, FORMATS[name.lower()])
    x = normal(9, 512)
    assert agrees(int8(weight, x), rounded_x(x), weight.decode(torch.float32).double())
