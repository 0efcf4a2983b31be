"""The CPU kernels against the formats' references: decoding bit for bit, products within float32's rounding.

Without a built library these tests are skipped; with one, each instruction set that the processor has is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from wavefold import ops, quant
from wavefold.checkpoint.random import random_model
from wavefold.config import ModelConfig
from wavefold.ops import Arithmetic, native
from wavefold.ops.native.library import MatrixStruct, require, runtime
from wavefold.quant import Weight

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

FORMS = ("fp4", "fp8", "bf16", "fp32")
SHAPES = [(256, 512), (100, 384), (130, 96), (16, 4096), (33, 32), (7, 2), (1, 160), (128, 130)]


def stored(form: str, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """A random weight, with blocks of very different size."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator) * torch.exp(4 * torch.randn(rows, 1, generator=generator))
    if form == "fp4":
        return quant.quantize_fp4(w)
    if form == "fp8":
        return quant.quantize_fp8(w)
    return w.to(torch.bfloat16 if form == "bf16" else torch.float32), None


def decoded(weight: Tensor, scale: Tensor | None) -> Tensor:
    """The reference's values, in float64."""
    return (weight if scale is None else quant.dequantize(weight, scale, torch.float32)).double()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_products(isa: str, form: str, rows: int, columns: int) -> None:
    weight, scale = stored(form, rows, columns)
    for x_rows in (1, 2, 3, 4, 5, 8):
        x = torch.randn(x_rows, columns, generator=torch.Generator().manual_seed(x_rows)).bfloat16()
        exact = x.double() @ decoded(weight, scale).T
        size = x.double().abs() @ decoded(weight, scale).abs().T  # what cancels in a sum does not make it exact
        y = native.linear(x, Weight.of(weight, scale), torch.float32)
        assert ((y - exact).abs() <= 1e-6 * size).all()
        assert torch.equal(native.linear(x, Weight.of(weight, scale), torch.bfloat16), y.bfloat16())


@pytest.mark.parametrize(("rows", "columns"), [(9, 512), (6, 384), (5, 130)])
@pytest.mark.parametrize("form", FORMS)
def test_wherever_a_weight_begins(isa: str, form: str, rows: int, columns: int) -> None:
    """Tensors of a file that is mapped lie at any address; the bytes around them are others' (here NaN of FP8)."""
    weight, scale = stored(form, rows, columns)
    x = torch.randn(2, columns, generator=torch.Generator().manual_seed(3)).bfloat16()
    expected = native.linear(x, Weight.of(weight, scale), torch.float32)
    num_bytes = weight.numel() * weight.element_size()
    file = torch.full((num_bytes + 192,), 0x7F, dtype=torch.uint8)
    first = -file.data_ptr() % 64
    for skipped in range(first, first + 64, weight.element_size()):
        moved = file.fill_(0x7F)[skipped : skipped + num_bytes].view(weight.dtype).view(weight.shape)
        moved.copy_(weight)
        assert torch.equal(native.linear(x, Weight.of(moved, scale), torch.float32), expected), skipped - first


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_the_others(isa: str, form: str) -> None:
    """Equal bytes in batches of few rows; of any number of rows with the switch."""
    weight, scale = stored(form, 96, 640)
    x = torch.randn(8, 640, generator=torch.Generator().manual_seed(1)).bfloat16()
    alone = torch.cat([native.linear(row[None], Weight.of(weight, scale), torch.float32) for row in x])
    for count in range(2, 9):
        assert torch.equal(native.linear(x[:count], Weight.of(weight, scale), torch.float32), alone[:count])
    many = x.repeat(20, 1)
    with ops.using(batch_invariant=True):
        assert torch.equal(native.linear(many, Weight.of(weight, scale), torch.float32), alone.repeat(20, 1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(isa: str, count: int, threads: Callable[[int], AbstractContextManager[None]]) -> None:
    weight, scale = stored("fp4", 200, 512)
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    alone = native.linear(x, Weight.of(weight, scale), torch.float32)
    with threads(count):
        assert all(torch.equal(native.linear(x, Weight.of(weight, scale), torch.float32), alone) for _ in range(50))
        assert runtime().threads == count


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_decoding_is_the_references(isa: str, form: str, rows: int, columns: int) -> None:
    weight, scale = stored(form, rows, columns)
    expected = decoded(weight, scale).float().bfloat16()
    assert torch.equal(native.decode(Weight.of(weight, scale), 0, rows), expected)
    assert torch.equal(native.decode(Weight.of(weight, scale), rows // 2, rows - rows // 2), expected[rows // 2 :])


def test_every_code_under_every_scale(isa: str) -> None:
    """All bytes of FP4 and FP8 under all 256 scales, subnormal results and NaN included, by their bits."""
    scales = torch.arange(256, dtype=torch.uint8)
    fp4 = torch.arange(256, dtype=torch.uint8).view(torch.int8).repeat(256, 1)  # 512 codes: 16 scales of 32
    fp4_scales = scales[:, None].expand(-1, 16).contiguous().view(torch.float8_e8m0fnu)
    fp8 = torch.arange(256, dtype=torch.uint8).repeat(256 * 128, 1).view(torch.float8_e4m3fn)
    fp8_scales = scales[:, None].expand(-1, 2).contiguous().view(torch.float8_e8m0fnu)
    for weight, scale in ((fp4, fp4_scales), (fp8, fp8_scales)):
        expected = quant.dequantize(weight, scale, torch.float32).bfloat16()
        got = native.decode(Weight.of(weight, scale), 0, len(weight))
        nan = expected.isnan()
        assert torch.equal(got.isnan(), nan) and nan.any()
        assert torch.equal(got[~nan].view(torch.int16), expected[~nan].view(torch.int16))


@pytest.mark.parametrize("form", ["fp4", "fp8"])
def test_extreme_scales_in_products(isa: str, form: str) -> None:
    """One block of columns under each scale byte: 2^-127 to 2^103, and NaN."""
    block = 32 if form == "fp4" else 128
    weight, _ = stored(form, 1, block)
    x = torch.ones(1, block, dtype=torch.bfloat16)
    for byte in (0, 1, 60, 127, 200, 230, 255):
        scale = torch.tensor([[byte]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
        y, expected = native.linear(x, Weight.of(weight, scale), torch.float32), decoded(weight, scale).sum().float()
        assert y.isnan().all() if byte == 255 else torch.allclose(y, expected, rtol=1e-5, atol=0), byte


def test_fp8_of_activations_is_the_references() -> None:
    """Every bfloat16 value as a block of its own beside zeros, rows of every size, NaN and infinities."""
    patterns = torch.arange(65536).to(torch.uint16).view(torch.bfloat16)
    alone = torch.zeros(65536, 3, dtype=torch.bfloat16)
    alone[:, 1] = patterns
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 200, generator=generator) * torch.exp(6 * torch.randn(3000, 1, generator=generator))
    for x, block in ((alone, 64), (rows.bfloat16(), 64), (rows.bfloat16(), 128), (patterns.view(512, 128), 128)):
        got, expected = native.fp8_sim(x, block), quant.fp8_sim(x, block)
        nan = expected.isnan()
        assert torch.equal(got.isnan(), nan)
        assert torch.equal(got[~nan].view(torch.int16), expected[~nan].view(torch.int16))


@pytest.mark.parametrize("x_rows", [1, 5, 20])
def test_products_of_quantized_activations(isa: str, x_rows: int) -> None:
    weight, scale = stored("fp4", 64, 320)
    x = torch.randn(x_rows, 320, generator=torch.Generator().manual_seed(2)).bfloat16()
    expected = native.linear(quant.fp8_sim(x, 128), Weight.of(weight, scale), torch.float32)
    assert torch.equal(native.linear(x, Weight.of(weight, scale), torch.float32, x_fp8=True), expected)


@pytest.mark.parametrize(("rows", "columns"), [(70, 256), (64, 2304), (1, 34), (200, 1090)])
@pytest.mark.parametrize("form", FORMS)
def test_products_of_many_rows(isa: str, form: str, rows: int, columns: int) -> None:
    """More rows than are multiplied one by one: tiles cut in every dimension, and an order of their own."""
    weight, scale = stored(form, rows, columns)
    x = torch.randn(401, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    values = decoded(weight, scale)
    exact, size = x.double() @ values.T, x.double().abs() @ values.abs().T
    y = native.linear(x, Weight.of(weight, scale), torch.float32)
    assert ((y - exact).abs() <= 2e-6 * size).all()
    assert torch.equal(native.linear(x, Weight.of(weight, scale), torch.bfloat16), y.bfloat16())
    assert torch.equal(native.linear(x[17:140], Weight.of(weight, scale), torch.float32), y[17:140])


def corrupted(**change: int | None) -> MatrixStruct:
    weight, scale = stored("fp4", 4, 64)
    matrix = MatrixStruct(0, 4, 64, weight.data_ptr(), 128, scale.data_ptr(), 8)  # type: ignore[union-attr]
    matrix.kept = weight, scale
    for name, value in change.items():
        setattr(matrix, name, value)
    return matrix


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"codes": None}, 1), ({"scales": None}, 1), ({"rows": 0}, 2), ({"columns": -1}, 2), ({"columns": 63}, 2),
        ({"rows": 1 << 40}, 2), ({"columns": 1 << 62}, 2), ({"codes_bytes": 127}, 3), ({"scales_bytes": 9}, 3),
        ({"rows": 5}, 3), ({"form": 16}, 4), ({"form": -1}, 4),
    ],
)  # fmt: skip
def test_bad_matrices_come_back_as_codes(change: dict[str, int | None], error: int) -> None:
    import ctypes

    x, y = torch.zeros(64, dtype=torch.bfloat16), torch.zeros(4)
    call = (ctypes.byref(corrupted(**change)), x.data_ptr(), 1, 0, y.data_ptr(), 0)
    assert require().wf_linear(runtime(), *call) == error
    assert require().wf_decode(runtime(), ctypes.byref(corrupted(**change)), 0, 4, y.data_ptr(), 512) == error


def test_bad_calls_are_value_errors() -> None:
    weight, scale = stored("fp8", 8, 64)
    x = torch.zeros(1, 64, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="does not fit a weight of 64 columns"):
        native.linear(x[:, :32], Weight.of(weight, scale), torch.float32)
    with pytest.raises(ValueError, match="another size than its shape needs"):
        native.linear(x, Weight.of(weight, torch.cat((scale, scale))), torch.float32)
    with pytest.raises(ValueError, match="a pointer is null"):
        native.linear(x, Weight.of(weight), torch.float32)
    with pytest.raises(ValueError, match="contiguous"):
        native.linear(x[:, :8], Weight.of(weight.T, scale), torch.float32)
    for first, count in ((-1, 2), (0, 9), (8, 1), (4, 5)):
        with pytest.raises(ValueError, match="a size is not positive or too large"):
            native.decode(Weight.of(weight, scale), first, count)
    with pytest.raises(ValueError, match="expected one of"):
        ops.Runtime(isa="sse9")


def test_released_decoding_agrees_with_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's decode steps on kernels and on references: the distributions differ by rounding at most.

    A rounding that sends a token to another expert moves a distribution by up to 0.1, as do the references alone
    when they read the same tokens in other chunks. Few tokens are moved so, hence the median.
    """
    config = ModelConfig.preset("nano").replace(vocab_size=500)
    model = random_model(config, 0, Arithmetic("released", torch.bfloat16), packed=True)
    tokens = torch.randint(0, 500, (140,), generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    original = native.forward
    monkeypatch.setattr(native, "forward", lambda *given: calls.append(1) or original(*given))
    logits, counts = {}, {}
    for backend in ops.BACKENDS:
        with ops.using(backend=backend):
            before = len(calls)
            sequence = model.new_pool(200).open()
            hidden = [model.extend(part, [sequence], [len(part)]) for part in tokens.split([100, *(1,) * 40])]
            logits[backend] = model.logits(torch.cat(hidden)[-45:])
            counts[backend] = len(calls) - before
    assert counts == {"auto": 41, "reference": 0}
    p, q = logits["reference"].double().log_softmax(-1), logits["auto"].double().log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).abs()
    assert divergence.median() < 3e-3
    assert divergence.max() < 0.2
