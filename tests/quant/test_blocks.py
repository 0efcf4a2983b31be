"""Stored weights: decoding and encoding against numpy, and the two lossless conversions at their limits."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wavefold.quant import (
    FP4_BLOCK,
    FP8_BLOCK,
    blocks,
    dequantize,
    e2m1,
    fp4_to_fp8,
    fp8_to_fp4,
    quantize_fp4,
    quantize_fp8,
    rows,
)

INTEGER = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
SHAPES = [(256, 256), (128, 128), (130, 96), (1, 32), (200, 144), (3, 70), (2, 3, 140, 160)]
E4M3_MAGNITUDES = np.unique(np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64))


def up(n: int, block: int) -> int:
    return -(-n // block)


def random_fp4(shape, low=110, high=124, seed=0):
    """Arbitrary codes with scale bytes from `low` up to and including `high`."""
    generator = torch.Generator().manual_seed(seed)
    *lead, n = shape
    packed = torch.randint(-128, 128, (*lead, n // 2), generator=generator, dtype=torch.int8)
    scale = torch.randint(low, high + 1, (*lead, up(n, 32)), generator=generator).to(torch.uint8)
    return packed, scale.view(torch.float8_e8m0fnu)


def random_fp8(shape, seed=0):
    """Every finite code, with scale bytes around those of real weights."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 1
    grid = (*shape[:-2], up(shape[-2], 128), up(shape[-1], 128))
    scale = torch.randint(100, 130, grid, generator=generator).to(torch.uint8)
    return codes.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu)


def scale_values(scale: torch.Tensor) -> np.ndarray:
    return scale.view(torch.uint8).numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float64)


def fp4_oracle(packed, scale) -> np.ndarray:
    packed = packed.numpy().view(np.uint8)
    nibbles = np.stack((packed & 15, packed >> 4), -1).reshape(*packed.shape[:-1], -1)
    values = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    return values * np.repeat(scale_values(scale), 32, -1)[..., : values.shape[-1]]


def fp8_oracle(codes, scale) -> np.ndarray:
    values = codes.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    grown = np.repeat(np.repeat(scale_values(scale), 128, -2), 128, -1)
    return values * grown[..., : values.shape[-2], : values.shape[-1]]


def plain_zeros(x: torch.Tensor) -> torch.Tensor:
    """x with minus zeros replaced, as the official converter does."""
    return x + 0.0


def assert_same_bits(ours: torch.Tensor, theirs) -> None:
    """Equal bit for bit; theirs may be float64 values that ours holds exactly."""
    if isinstance(theirs, np.ndarray):
        theirs = torch.from_numpy(theirs).to(ours.dtype)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    different = (ours.view(INTEGER[ours.dtype]) != theirs.view(INTEGER[ours.dtype])).nonzero()
    assert not len(different), f"{len(different)} differ, first at {different[0].tolist()}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp4_weights_decode_exactly(shape, dtype):
    packed, scale = random_fp4(shape)
    expected = fp4_oracle(packed, scale)
    assert_same_bits(dequantize(packed, scale, dtype), expected)
    assert_same_bits(dequantize(packed.view(torch.uint8), scale.view(torch.uint8), dtype), expected)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 7), (129, 131)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp8_weights_decode_exactly(shape, dtype):
    codes, scale = random_fp8(shape)
    assert_same_bits(dequantize(codes, scale, dtype), fp8_oracle(codes, scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_scale_byte_multiplies_every_fp4_byte(dtype):
    packed = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(1, 16, 16).repeat(255, 1, 1).flatten(1)
    scale = torch.arange(255, dtype=torch.int32).to(torch.uint8)[:, None].repeat(1, 16)
    with np.errstate(over="ignore"):
        expected = fp4_oracle(packed, scale).astype(np.float32)
    assert_same_bits(dequantize(packed, scale, dtype), torch.from_numpy(expected).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_scale_byte_multiplies_every_fp8_code(dtype):
    finite = [code for code in range(256) if code & 0x7F != 0x7F]
    codes = torch.tensor(finite, dtype=torch.uint8).view(1, 1, 254).repeat(255, 1, 1).view(torch.float8_e4m3fn)
    scale = torch.arange(255, dtype=torch.int32).to(torch.uint8).view(255, 1, 1).repeat(1, 1, 2)
    with np.errstate(over="ignore"):
        expected = fp8_oracle(codes, scale).astype(np.float32)
    assert_same_bits(dequantize(codes, scale, dtype), torch.from_numpy(expected).to(dtype))


@pytest.mark.parametrize("chunk", [1, 1000, 40_000])
def test_chunks_of_rows_change_nothing(monkeypatch, chunk):
    fp4, fp8 = random_fp4((300, 256)), random_fp8((300, 256))
    whole = dequantize(*fp4), dequantize(*fp8), *fp4_to_fp8(*fp4)
    monkeypatch.setattr(rows, "CPU_CHUNK", chunk)
    parts = dequantize(*fp4), dequantize(*fp8), *fp4_to_fp8(*fp4)
    for ours, theirs in zip(parts, whole, strict=True):
        assert torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_rounded_once_from_the_product(dtype):
    packed, scale = random_fp4((64, 64), 97, 124)
    assert torch.equal(dequantize(packed, scale, dtype), torch.from_numpy(fp4_oracle(packed, scale)).to(dtype))


def test_unquantized_weights_are_cast():
    weight = torch.randn(8, 6)
    assert dequantize(weight, None, torch.float32) is weight
    assert torch.equal(dequantize(weight, None, torch.bfloat16), weight.bfloat16())
    assert torch.equal(dequantize(weight.bfloat16(), None, torch.float32), weight.bfloat16().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_fp4_takes_the_nearest_values(shape, dtype):
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    packed, scale = quantize_fp4(weight)
    assert packed.dtype == torch.int8 and packed.shape == (*shape[:-1], shape[-1] // 2)
    assert scale.dtype == torch.float8_e8m0fnu and scale.shape == (*shape[:-1], up(shape[-1], 32))
    grown = np.repeat(scale_values(scale), 32, -1)[..., : shape[-1]]
    exact = weight.double().numpy()
    nearest = (exact / grown).astype(np.float32).astype(ml_dtypes.float4_e2m1fn).astype(np.float64) * grown
    assert_same_bits(dequantize(packed, scale, torch.float32), nearest)
    # Scales: the smallest power of two under which no value exceeds 6.
    blocks_of = np.split(np.abs(exact), range(32, shape[-1], 32), axis=-1)
    amax = np.stack([part.max(-1) for part in blocks_of], -1)
    assert (amax <= 6 * scale_values(scale)).all() and (amax > 3 * scale_values(scale)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 7)])
def test_quantize_fp8_takes_the_nearest_values(shape, dtype):
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-3).to(dtype)
    codes, scale = quantize_fp8(weight)
    grid = (*shape[:-2], up(shape[-2], 128), up(shape[-1], 128))
    assert codes.dtype == torch.float8_e4m3fn and codes.shape == weight.shape
    assert scale.dtype == torch.float8_e8m0fnu and scale.shape == grid
    grown = np.repeat(np.repeat(scale_values(scale), 128, -2), 128, -1)[..., : shape[-2], : shape[-1]]
    exact = weight.double().numpy()
    nearest = (exact / grown).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * grown
    assert_same_bits(dequantize(codes, scale, torch.float32), nearest)
    for index in np.ndindex(*grid):
        *lead, row, column = index
        part = exact[tuple(lead)][row * 128 :, column * 128 :][:128, :128]
        assert 224 < np.abs(part).max() / scale_values(scale)[index] <= 448, index


@pytest.mark.parametrize("quantize", [quantize_fp4, quantize_fp8])
def test_quantizing_twice_changes_nothing(quantize):
    weight = torch.randn(130, 160, generator=torch.Generator().manual_seed(3))
    weight[5] = 0.0
    weight[6] = -0.0
    once = dequantize(*quantize(weight), torch.float32)
    assert torch.equal(once[5:7].signbit(), weight[5:7].signbit())
    assert_same_bits(dequantize(*quantize(once), torch.float32), once)


@pytest.mark.parametrize("quantize", [quantize_fp4, quantize_fp8])
def test_a_weight_of_zeros_has_a_normal_scale(quantize):
    codes, scale = quantize(torch.zeros(4, 64, requires_grad=True))
    assert (scale.view(torch.uint8) == 1).all() and not codes.view(torch.uint8).any()


# FP4 to FP8 and back.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp4_to_fp8_keeps_every_value(shape, dtype):
    packed, scale = random_fp4(shape)
    codes, block_scale = fp4_to_fp8(packed, scale)
    assert codes.dtype == torch.float8_e4m3fn and codes.shape == shape
    assert block_scale.dtype == torch.float8_e8m0fnu
    assert block_scale.shape == (*shape[:-2], up(shape[-2], 128), up(shape[-1], 128))
    assert_same_bits(dequantize(codes, block_scale, dtype), plain_zeros(dequantize(packed, scale, dtype)))


def two_scales(ratio_log2: int, high: int = 124, packed: torch.Tensor | None = None):
    """One 128x128 block with all bytes under each of two scales, 2^ratio_log2 apart."""
    if packed is None:
        packed = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(4, 64).repeat(32, 1)
    scale = torch.full((128, 4), high, dtype=torch.uint8)
    scale[64:] = high - ratio_log2
    return packed, scale


@pytest.mark.parametrize("high", [250, 124, 15, 14])
def test_ratio_2_to_the_14_is_exact_for_all_codes(high):
    packed, scale = two_scales(14, high)
    codes, block_scale = fp4_to_fp8(packed, scale)
    assert block_scale.view(torch.uint8).item() == high - 6
    for dtype in (torch.bfloat16, torch.float32):
        assert_same_bits(dequantize(codes, block_scale, dtype), plain_zeros(dequantize(packed, scale, dtype)))


def test_ratio_2_to_the_15_is_refused_by_name():
    packed, scale = two_scales(15)
    packed, scale = torch.cat((packed,) * 3, -1), torch.cat((torch.full_like(scale, 124), scale, scale), -1)
    message = r"128x128 block \[0, 1\].*largest FP4 scale, 2\^-3, is 2\^15 times its smallest.*allowed.*2\^14"
    with pytest.raises(ValueError, match=message):
        fp4_to_fp8(packed, scale)
    stack = torch.stack((packed, packed)), torch.stack((torch.full_like(scale, 124), scale))
    with pytest.raises(ValueError, match=r"128x128 block \[1, 0, 1\].*2\^15"):
        fp4_to_fp8(*stack)


@pytest.mark.parametrize(("byte", "ratio"), [(0x20, 15), (0x44, 16), (0x66, 17), (0x00, 134), (0x88, 190)])
def test_a_wider_ratio_is_accepted_where_the_values_allow_it(byte, ratio):
    packed, scale = two_scales(ratio, high=200)
    packed[64:] = byte
    codes, block_scale = fp4_to_fp8(packed, scale)
    assert_same_bits(dequantize(codes, block_scale), plain_zeros(dequantize(packed, scale)))


@pytest.mark.parametrize(("byte", "ratio"), [(0x01, 15), (0x30, 15), (0x50, 16), (0x07, 17), (0xF0, 40), (0x70, 124)])
def test_one_value_between_codes_is_enough_to_refuse(byte, ratio):
    packed, scale = two_scales(ratio)
    packed[64:] = 0
    packed[127, 63] = byte
    with pytest.raises(ValueError, match=rf"block \[0, 0\].*2\^{ratio} times"):
        fp4_to_fp8(packed, scale)


def test_a_nan_scale_is_refused():
    packed, scale = two_scales(0)
    for where in (3, slice(None)):
        scale[where] = 255
        with pytest.raises(ValueError, match=r"block \[0, 0\].*NaN \(byte 255\); allowed are bytes 0 to 254"):
            fp4_to_fp8(packed, scale)


def test_scales_too_small_for_the_rule_stay_exact():
    packed, scale = two_scales(3, high=4)
    codes, block_scale = fp4_to_fp8(packed, scale)
    assert block_scale.view(torch.uint8).item() == 0
    expected = plain_zeros(dequantize(packed, scale, torch.float32))
    assert_same_bits(dequantize(codes, block_scale, torch.float32), expected)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 75)),
    low=st.integers(0, 230),
    spread=st.integers(0, 24),
    seed=st.integers(0, 2**31),
)
def test_fp4_to_fp8_refuses_exactly_what_e4m3_cannot_hold(shape, low, spread, seed):
    packed, scale = random_fp4((shape[0], 2 * shape[1]), low, low + spread, seed)
    values = fp4_oracle(packed, scale)
    largest = np.zeros((up(shape[0], 128), up(2 * shape[1], 128)))
    for row, column in np.ndindex(*largest.shape):
        largest[row, column] = scale_values(scale)[row * 128 :, column * 4 :][:128, :4].max()
    grown = np.repeat(np.repeat(np.maximum(largest / 64, 2.0**-127), 128, 0), 128, 1)
    representable = np.isin(np.abs(values / grown[: values.shape[0], : values.shape[1]]), E4M3_MAGNITUDES)
    if representable.all():
        assert_same_bits(
            dequantize(*fp4_to_fp8(packed, scale), torch.float32), plain_zeros(torch.from_numpy(values).float())
        )
    else:
        row, column = (index // 128 for index in np.argwhere(~representable)[0])
        with pytest.raises(ValueError, match=r"128x128 block"):
            fp4_to_fp8(packed, scale)
        if spread <= 14:
            raise AssertionError(f"block {row}, {column} is not exact within a ratio of 2^{spread}")


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_to_fp4_gives_the_values_back(shape):
    packed, scale = random_fp4(shape)
    codes, block_scale = fp4_to_fp8(packed, scale)
    again, again_scale = fp8_to_fp4(codes, block_scale)
    assert again.dtype == torch.int8 and again_scale.dtype == torch.float8_e8m0fnu
    assert again.shape == packed.shape and again_scale.shape == scale.shape
    assert_same_bits(dequantize(again, again_scale), plain_zeros(dequantize(packed, scale)))
    assert (again_scale.view(torch.uint8) <= scale.view(torch.uint8)).all()


def test_fp8_to_fp4_gives_bytes_back_where_a_block_uses_its_range():
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(4)) * 0.02
    packed, scale = quantize_fp4(weight)
    packed[packed.view(torch.uint8) & 0x0F == 0x08] ^= 0x08
    packed[packed.view(torch.uint8) & 0xF0 == 0x80] ^= -0x80
    again, again_scale = fp8_to_fp4(*fp4_to_fp8(packed, scale))
    # With 3 as its largest code, a block also fits half the scale.
    full = e2m1.decode(packed).abs().view(256, 8, 32).amax(-1) > 3
    assert full.sum() > 1000
    assert torch.equal(again_scale.view(torch.uint8)[full], scale.view(torch.uint8)[full])
    assert torch.equal(again.view(256, 8, 16)[full], packed.view(256, 8, 16)[full])


@pytest.mark.parametrize("scale_byte", [0, 1, 5, 127, 247, 248, 254])
def test_fp8_to_fp4_of_each_code_alone(scale_byte):
    allowed = {magnitude * 2.0**k for magnitude in e2m1.VALUES[1:8] for k in range(-127, 128)}
    scale = torch.tensor([[scale_byte]], dtype=torch.uint8)
    for code in range(1, 0x7F):
        codes = torch.tensor([[code, code | 0x80, 0, 0x80]], dtype=torch.uint8).view(torch.float8_e4m3fn)
        expected = fp8_oracle(codes, scale)
        if expected[0, 0] in allowed:
            assert fp4_oracle(*fp8_to_fp4(codes, scale)).tobytes() == expected.tobytes(), code
        else:
            with pytest.raises(ValueError, match=r"row \[0\], columns 0 to 3"):
                fp8_to_fp4(codes, scale)


def test_fp8_to_fp4_refuses_by_name():
    codes, scale = fp4_to_fp8(*random_fp4((2, 130, 160)))
    codes[1, 129, 97] = 448.0
    factor = int(scale.view(torch.uint8)[1, 1, 0]) - 127
    message = rf"row \[1, 129\], columns 96 to 127: magnitudes \[.*448\.0\] times 2\^{factor}; .*power of two"
    with pytest.raises(ValueError, match=message):
        fp8_to_fp4(codes, scale)
    codes[1, 129, 97] = torch.nan
    with pytest.raises(ValueError, match=r"columns 96 to 127"):
        fp8_to_fp4(codes, scale)
    codes = torch.zeros_like(codes)
    scale.view(torch.uint8)[0, 1, 1] = 255
    with pytest.raises(ValueError, match=r"row \[0, 128\], columns 128 to 159:.*times NaN"):
        fp8_to_fp4(codes, scale)


def test_zeros_lose_their_sign_to_fp8_and_keep_it_from_there():
    packed = torch.tensor([0x08, 0x80, 0x88, 0x00] * 4, dtype=torch.uint8)[None]
    codes, scale = fp4_to_fp8(packed, torch.tensor([[100]], dtype=torch.uint8))
    assert not codes.view(torch.uint8).any() and scale.view(torch.uint8).item() == 94
    codes.view(torch.uint8)[0, ::3] = 0x80
    again, again_scale = fp8_to_fp4(codes, scale)
    assert_same_bits(dequantize(again, again_scale), dequantize(codes, scale))
    assert again_scale.view(torch.uint8).item() == 94


# Mistakes.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dequantize(torch.zeros(4, 16, dtype=torch.int8), torch.zeros(4, 2, dtype=torch.uint8)),
            r"\(4, 2\).*allowed is \(4, 1\)",
        ),
        (
            lambda: dequantize(torch.zeros(130, 8).to(torch.float8_e4m3fn), torch.zeros(1, 1, dtype=torch.uint8)),
            r"\(1, 1\).*allowed is \(2, 1\)",
        ),
        (
            lambda: dequantize(torch.zeros(4, 16, dtype=torch.int8), torch.zeros(4, 1)),
            r"torch\.float32.*float8_e8m0fnu",
        ),
        (lambda: dequantize(torch.zeros(4, 16, dtype=torch.int8), None), r"torch\.int8 weight without a scale"),
        (lambda: dequantize(torch.zeros(4, 4), torch.zeros(4, 1)), r"torch\.float32 weight with a scale"),
        (lambda: dequantize(torch.zeros(4, 4, dtype=torch.int32), torch.zeros(4, 1)), r"torch\.int32.*int8 and uint8"),
        (lambda: quantize_fp4(torch.zeros(4, 5)), r"dimension 5 is odd"),
        (lambda: quantize_fp4(torch.zeros(4)), r"\(4,\).*\[\.\.\., out, in\]"),
        (lambda: quantize_fp8(torch.zeros(4)), r"\(4,\).*\[\.\.\., out, in\]"),
        (lambda: quantize_fp8(torch.zeros(4, 4, dtype=torch.float64)), r"torch\.float64.*bfloat16"),
        (lambda: fp4_to_fp8(torch.zeros(4, 16), torch.zeros(4, 1)), r"torch\.float32.*int8 and uint8"),
        (
            lambda: fp4_to_fp8(torch.zeros(4, 16, dtype=torch.int8), torch.zeros(1, 1, dtype=torch.uint8)),
            r"\(1, 1\).*allowed is \(4, 1\)",
        ),
        (lambda: fp8_to_fp4(torch.zeros(4, 4), torch.zeros(1, 1)), r"torch\.float32.*float8_e4m3fn"),
        (
            lambda: fp8_to_fp4(torch.zeros(4, 5).to(torch.float8_e4m3fn), torch.zeros(1, 1, dtype=torch.uint8)),
            r"dimension 5 is odd",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Mutants.


def swapped_nibbles(monkeypatch):
    decode = e2m1.decode
    monkeypatch.setattr(
        e2m1, "decode", lambda p, *a: decode(p, *a).unflatten(-1, (-1, 2)).flip(-1).flatten(-2).contiguous()
    )


def transposed_grid(monkeypatch):
    original = blocks._repeat_rows
    monkeypatch.setattr(blocks, "_repeat_rows", lambda grid, n: original(grid.transpose(-1, -2), n))


def scale_of_the_first_row(monkeypatch):
    monkeypatch.setattr(blocks, "_max_of_rows", lambda per_row: per_row[..., ::FP8_BLOCK, :].clone())


def no_headroom(monkeypatch):
    monkeypatch.setattr(blocks, "HEADROOM", 7)


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (swapped_nibbles, lambda: test_fp4_weights_decode_exactly((256, 256), torch.bfloat16)),
        (transposed_grid, lambda: test_fp8_weights_decode_exactly((256, 256), torch.bfloat16)),
        (scale_of_the_first_row, lambda: test_quantize_fp8_takes_the_nearest_values((256, 256), torch.float32)),
        (no_headroom, lambda: test_ratio_2_to_the_14_is_exact_for_all_codes(124)),
    ],
)
def test_mutants_are_caught(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        test()


def test_block_sizes_are_the_released_ones():
    assert (FP8_BLOCK, FP4_BLOCK) == (128, 32)
