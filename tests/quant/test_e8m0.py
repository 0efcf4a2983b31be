"""e8m0 against ml_dtypes and gguf, and the rounding of a scale against exact arithmetic."""

import gguf.quants
import ml_dtypes
import numpy as np
import pytest
import torch

from wavefold.quant import e8m0

ALL_BYTES = torch.arange(256, dtype=torch.int32).to(torch.uint8)


def test_every_byte_decodes_as_ml_dtypes():
    theirs = ALL_BYTES.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    for scale in (ALL_BYTES, ALL_BYTES.view(torch.float8_e8m0fnu)):
        ours = e8m0.decode(scale).numpy()
        assert ours.dtype == np.float32
        assert ours[:255].tobytes() == theirs[:255].tobytes()
        assert np.isnan(ours[255]) and np.isnan(theirs[255])


def test_gguf_keeps_half_of_each_scale():
    half = gguf.quants.MXFP4.e8m0_to_fp32_half(np.arange(255, dtype=np.uint8))
    assert np.array_equal(e8m0.decode(ALL_BYTES[:255]).double().numpy(), 2 * half.astype(np.float64))


@pytest.mark.parametrize("largest", [6.0, 448.0])
def test_a_scale_is_the_smallest_power_of_two_that_reaches_amax(largest):
    # All positive bfloat16, and float32 neighbours of largest * 2^k; products are exact in float64.
    amax = torch.arange(1, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    scale = e8m0.decode(e8m0.ceil_scale(amax, largest)).double()
    assert (amax.double() <= largest * scale).all()
    normal = scale > 2.0**-126  # below it the official code's exponent field holds no smaller scale
    assert (amax.double() > largest * scale / 2)[normal].all()

    edges = largest * 2.0 ** torch.arange(-100, 100, dtype=torch.float64)
    exact = edges.float()
    above = torch.nextafter(exact, torch.tensor(torch.inf))
    below = torch.nextafter(exact, torch.tensor(0.0))
    bytes_at = [e8m0.as_bytes(e8m0.ceil_scale(x, largest)).int() for x in (below, exact, above)]
    expected = torch.arange(27, 227, dtype=torch.int32)
    assert torch.equal(bytes_at[0], expected)
    assert torch.equal(bytes_at[1], expected)
    assert torch.equal(bytes_at[2], expected + 1)


@pytest.mark.parametrize("largest", [6.0, 448.0])
def test_the_product_is_float32_by_the_rounded_reciprocal(largest):
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 200_000, dtype=np.int32)
    product = bits.view(np.float32) * np.float32(1 / largest)
    fields = product.view(np.uint32)
    expected = (fields >> 23) + ((fields & 0x7FFFFF) != 0)
    ours = e8m0.ceil_scale(torch.from_numpy(bits).view(torch.float32), largest)
    assert ours.dtype == torch.float8_e8m0fnu
    assert np.array_equal(ours.view(torch.uint8).numpy(), expected)


def test_edges_of_the_range():
    amax = torch.tensor([0.0, 1e-45, torch.inf, torch.nan, -torch.nan, 6 * 2.0**-126, torch.finfo().max])
    amax = torch.cat((amax, torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)))
    assert e8m0.as_bytes(e8m0.ceil_scale(amax, 6.0)).tolist()[:4] == [0, 0, 255, 255]
    assert e8m0.as_bytes(e8m0.ceil_scale(amax, 6.0)).tolist()[5:] == [1, 253, 255]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"torch\.float32.*float8_e8m0fnu and uint8"):
        e8m0.decode(torch.ones(2))
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*float32"):
        e8m0.ceil_scale(torch.ones(2, dtype=torch.bfloat16), 6.0)


def rounded_down(monkeypatch):
    original = e8m0.ceil_scale

    def floor_scale(amax, largest):
        return (e8m0.as_bytes(original(amax, largest)) - 1).view(torch.float8_e8m0fnu)

    monkeypatch.setattr(e8m0, "ceil_scale", floor_scale)


def byte_zero_flushed(monkeypatch):
    decode = e8m0.decode
    monkeypatch.setattr(e8m0, "decode", lambda scale: decode(scale).masked_fill_(e8m0.as_bytes(scale) == 0, 0))


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (rounded_down, lambda: test_a_scale_is_the_smallest_power_of_two_that_reaches_amax(448.0)),
        (rounded_down, test_edges_of_the_range),
        (byte_zero_flushed, test_every_byte_decodes_as_ml_dtypes),
        (byte_zero_flushed, test_gguf_keeps_half_of_each_scale),
    ],
)
def test_mutants_are_caught(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        test()
