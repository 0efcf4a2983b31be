"""Activation quantization against numpy with ml_dtypes, in exact arithmetic."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavefold.quant import act_quant, activation, dequantize_rows, e2m1, e8m0, fp4_quant, fp4_sim, fp8_sim, rows

FLOATS = [torch.bfloat16, torch.float16, torch.float32]


def oracle(x: torch.Tensor, block: int, largest: float, floor: float, code_type) -> tuple[np.ndarray, np.ndarray]:
    """Values after quantization [rows, n] and scale bytes, block by block in float64."""
    x = x.double().numpy()
    values, scales = np.empty_like(x), []
    for start in range(0, x.shape[-1], block):
        part = x[:, start : start + block]
        amax = np.maximum(np.abs(part).max(-1, keepdims=True), np.float32(floor))
        mantissa, exponent = np.frexp(amax / largest)
        scale = np.ldexp(1.0, exponent - (mantissa == 0.5))
        codes = np.clip(part / scale, -largest, largest).astype(np.float32).astype(code_type)
        values[:, start : start + block] = codes.astype(np.float64) * scale
        scales.append(np.log2(scale) + 127)
    return values, np.concatenate(scales, -1)


def sample(num_rows: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different magnitudes, with zeros of both signs and values that lie on the grid."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(num_rows, n, generator=generator)
    limit = 8 if dtype == torch.float16 else 60
    x *= 2.0 ** torch.randint(-limit, limit, (num_rows, 1), generator=generator)
    x[0], x[1, ::2], x[1, 1::2] = 0.0, -0.0, 3.0
    return x.to(dtype)


def same_bits(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    return ours.double().numpy().tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("n", "block"), [(256, 128), (448, 64), (200, 128), (6, 128), (130, 64)])
def test_fp8(dtype, n, block):
    x = sample(40, n, dtype)
    values, scales = oracle(x, block, 448, 1e-4, ml_dtypes.float8_e4m3fn)
    codes, scale = act_quant(x, block)
    assert codes.dtype == torch.float8_e4m3fn and codes.shape == x.shape
    assert scale.dtype == torch.float8_e8m0fnu and np.array_equal(scale.view(torch.uint8).numpy(), scales)
    assert same_bits(dequantize_rows(codes, scale, block, torch.float32), values)
    assert fp8_sim(x, block).dtype == dtype
    assert torch.equal(fp8_sim(x, block), torch.from_numpy(values).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("n", "block"), [(128, 32), (64, 64), (48, 32), (6, 32)])
def test_fp4(dtype, n, block):
    x = sample(40, n, dtype)
    values, scales = oracle(x, block, 6, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn)
    packed, scale = fp4_quant(x, block)
    assert packed.dtype == torch.int8 and packed.shape == (40, n // 2)
    assert scale.dtype == torch.float8_e8m0fnu and np.array_equal(scale.view(torch.uint8).numpy(), scales)
    assert same_bits(dequantize_rows(packed, scale, block, torch.float32), values)
    assert fp4_sim(x, block).dtype == dtype
    assert torch.equal(fp4_sim(x, block), torch.from_numpy(values).to(dtype))


@pytest.mark.parametrize("sim", [fp8_sim, fp4_sim])
@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_keeps_its_sign(sim, dtype):
    x = torch.tensor([[0.0, -0.0] * 32, [1e-7, -1e-7] * 31 + [60.0, -60.0]]).to(dtype)
    assert torch.equal(sim(x).signbit(), x.signbit())
    assert (sim(x)[0] == 0).all()


def test_default_blocks_are_the_released_ones():
    x = torch.ones(1, 256)
    assert act_quant(x)[1].shape == (1, 2) and fp4_quant(x)[1].shape == (1, 8)
    # Small values beside large ones are lost, so the size of the block shows.
    for sim, block, amax in ((fp8_sim, 64, 1e5), (fp4_sim, 32, 3.0)):
        x[:, ::32] = amax * 2.0 ** torch.arange(8)
        assert torch.equal(sim(x), sim(x, block))
        assert not torch.equal(sim(x), sim(x, 2 * block))


@pytest.mark.parametrize("sim", [fp8_sim, fp4_sim])
def test_simulation_is_idempotent(sim):
    x = sample(64, 256, torch.bfloat16)
    assert torch.equal(sim(sim(x)), sim(x))


@pytest.mark.parametrize(("quantize", "largest", "steps"), [(act_quant, 448, 16), (fp4_quant, 6, 4)])
@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=96))
def test_nothing_is_clipped_and_half_a_step_bounds_the_error(quantize, largest, steps, values):
    x = torch.tensor(values[: len(values) // 2 * 2])[None]
    codes, scale = quantize(x, 32)
    scale = e8m0.decode(scale).repeat_interleave(32, -1)[:, : x.shape[-1]].double()
    y = dequantize_rows(codes, scale_of(codes, x, quantize), 32, torch.float32).double()
    assert (x.double().abs() <= largest * scale).all()
    # The widest step is that below the largest code: 2/steps of its power of two.
    assert ((y - x.double()).abs() <= largest * scale / steps).all()


def scale_of(codes, x, quantize):
    again, scale = quantize(x, 32)
    assert torch.equal(again.view(torch.uint8), codes.view(torch.uint8))
    return scale


@pytest.mark.parametrize("quantize", [act_quant, fp4_quant])
@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_spoils_its_block_alone(quantize, bad):
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    x[1, 3] = bad
    codes, scale = quantize(x, 32)
    assert scale.view(torch.uint8)[1].tolist()[0] == 255
    y = dequantize_rows(codes, scale, 32, torch.bfloat16)
    assert y[1, :32].isnan().all()
    assert (y[0] == 1).all() and (y[1, 32:] == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("quantize", [act_quant, fp4_quant])
def test_chunks_leading_dimensions_and_strides_change_nothing(monkeypatch, quantize, dtype):
    x = sample(60, 256, dtype)
    codes, scale = (t.view(torch.uint8) for t in quantize(x))
    monkeypatch.setattr(rows, "CPU_CHUNK", 7 * 256)
    variants = {
        "chunks": x,
        "leading": x.view(3, 4, 5, 256),
        "strided": x.t().contiguous().t(),
        "sliced": torch.cat((x, x), -1)[:, 256:],
    }
    for name, variant in variants.items():
        ours = [t.view(torch.uint8).reshape(60, -1) for t in quantize(variant)]
        assert torch.equal(ours[0], codes) and torch.equal(ours[1], scale), name
    one, one_scale = quantize(x[7])
    assert torch.equal(one.view(torch.uint8), codes[7]) and torch.equal(one_scale.view(torch.uint8), scale[7])


def test_no_rows():
    codes, scale = act_quant(torch.empty(0, 256))
    assert codes.shape == (0, 256) and scale.shape == (0, 2)
    assert fp8_sim(torch.empty(2, 0, 128)).shape == (2, 0, 128)
    assert fp4_sim(torch.empty(0, 48)).shape == (0, 48)


@pytest.mark.parametrize("sim", [fp8_sim, fp4_sim])
def test_the_input_is_left_alone_and_no_gradient_flows(sim):
    x = torch.randn(4, 64, requires_grad=True)
    before = x.detach().clone()
    y = sim(x)
    assert not y.requires_grad and y.data_ptr() != x.data_ptr()
    assert torch.equal(x.detach(), before)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"torch\.float64.*bfloat16, float16 and float32"):
        act_quant(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(2, 0\).*must not be empty"):
        act_quant(torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"\(\).*must not be empty"):
        act_quant(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"dimension 5 is odd"):
        fp4_quant(torch.zeros(2, 5))
    codes, scale = act_quant(torch.zeros(2, 256))
    with pytest.raises(ValueError, match=r"\(2, 2\) for \(2, 256\).*blocks of 64; allowed is \(2, 4\)"):
        dequantize_rows(codes, scale, 64)


def low_floor(monkeypatch):
    monkeypatch.setattr(activation, "FP8_FLOOR", 1e-30)


def scale_not_a_power_of_two_up(monkeypatch):
    original = e8m0.ceil_scale
    monkeypatch.setattr(e8m0, "ceil_scale", lambda amax, largest: original(amax * 1.01, largest))


def plus_zero(monkeypatch):
    encode = e2m1.encode
    monkeypatch.setattr(e2m1, "encode", lambda x: encode(x + 0.0))


def scales_of_the_next_block(monkeypatch):
    original = rows.scale_rows_
    monkeypatch.setattr(rows, "scale_rows_", lambda x, scale, block: original(x, scale.roll(1, -1), block))


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (low_floor, lambda: test_fp8(torch.bfloat16, 256, 128)),
        (scale_not_a_power_of_two_up, lambda: test_fp8(torch.float32, 256, 128)),
        (scale_not_a_power_of_two_up, lambda: test_fp4(torch.float32, 128, 32)),
        (plus_zero, lambda: test_zero_keeps_its_sign(fp4_sim, torch.float32)),
        (scales_of_the_next_block, lambda: test_fp8(torch.float32, 256, 128)),
    ],
)
def test_mutants_are_caught(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        test()
