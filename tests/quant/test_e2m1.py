"""e2m1 against ml_dtypes and gguf: every byte, and every rounding decision."""

import gguf.quants
import ml_dtypes
import numpy as np
import pytest
import torch

from wavefold.quant import e2m1, e8m0

ALL_BYTES = torch.arange(256, dtype=torch.int32).to(torch.uint8)
TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def all_bf16() -> torch.Tensor:
    """Every bfloat16 that is not NaN, infinities included."""
    x = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    return x[~x.isnan()]


def ml_dtypes_codes(x: torch.Tensor) -> np.ndarray:
    return x.float().clamp(-6, 6).numpy().astype(ml_dtypes.float4_e2m1fn).view(np.uint8) & 15


def codes(packed: torch.Tensor) -> np.ndarray:
    """One code per element, unpacked here rather than by `decode`."""
    packed = packed.numpy().view(np.uint8)
    return np.stack((packed & 15, packed >> 4), -1).reshape(*packed.shape[:-1], -1)


def even(x: torch.Tensor) -> torch.Tensor:
    return x[: len(x) // 2 * 2]


def test_values_are_those_of_ml_dtypes():
    ours = torch.tensor(e2m1.VALUES).numpy()
    theirs = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("byte_dtype", [torch.int8, torch.uint8])
def test_every_byte_decodes_low_nibble_first(dtype, byte_dtype):
    decoded = e2m1.decode(ALL_BYTES.view(byte_dtype)[:, None], dtype)
    assert decoded.dtype == dtype
    nibbles = np.stack((np.arange(256) & 15, np.arange(256) >> 4), -1).astype(np.uint8)
    theirs = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert decoded.float().numpy().tobytes() == theirs.tobytes()


def test_byte_0x21_is_one_half_then_one():
    assert e2m1.decode(torch.tensor([0x21], dtype=torch.int8)).tolist() == [0.5, 1.0]


def test_every_byte_and_scale_decodes_as_gguf_mxfp4():
    # A gguf block is one scale byte, then 16 bytes with elements 0..15 in their low nibbles and 16..31 in their
    # high ones; values are doubled and scales halved. It reads scale 255 as a number, the OCP as NaN: left out.
    packed = ALL_BYTES.view(16, 16).repeat(255, 1)
    scale = torch.arange(255, dtype=torch.int32).to(torch.uint8).repeat_interleave(16)
    nibbles = codes(packed)
    blocks = np.concatenate((scale.numpy()[:, None], nibbles[:, :16] | nibbles[:, 16:] << 4), -1)
    with np.errstate(over="ignore"):
        theirs = gguf.quants.MXFP4.dequantize_blocks(blocks.astype(np.uint8))
    ours = (e2m1.decode(packed) * e8m0.decode(scale)[:, None]).numpy()
    # gguf's integer zero has no sign; 6 * 2^127 overflows here and there.
    assert np.array_equal(ours, theirs)
    assert np.isinf(ours).any() and (ours != 0).any()


def test_encode_undoes_decode_for_every_byte():
    assert torch.equal(e2m1.encode(e2m1.decode(ALL_BYTES)).view(torch.uint8), ALL_BYTES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_bfloat16_rounds_as_ml_dtypes(dtype):
    x = even(all_bf16()).to(dtype)
    assert np.array_equal(codes(e2m1.encode(x)), ml_dtypes_codes(x))


def test_float32_rounds_once():
    # Around each tie and each value, neighbours down to the last bit; a first rounding would move them.
    centres = torch.tensor([*TIES, *e2m1.VALUES[:8], 0.0, 1e-40, 1e-30])
    bits = centres.view(torch.int32)[:, None] + torch.arange(-64, 65, dtype=torch.int32)
    x = bits.clamp_(min=0).view(torch.float32).flatten()
    x = torch.cat((x, -x, torch.linspace(-7, 7, 200_001)))
    assert np.array_equal(codes(e2m1.encode(even(x))), ml_dtypes_codes(even(x)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ties_go_to_the_even_code(dtype):
    ties = torch.tensor([*TIES, TIES[0]], dtype=dtype)
    expected = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 0.0]
    assert e2m1.decode(e2m1.encode(ties)).tolist() == expected
    assert e2m1.decode(e2m1.encode(-ties)).tolist() == [-value for value in expected]


def test_rounding_has_no_bias():
    # Per step of the grid, the errors of a dense and symmetric set of points cancel.
    for low, high in zip(e2m1.VALUES[:7], e2m1.VALUES[1:8], strict=True):
        x = torch.linspace(low, high, 4098, dtype=torch.float64)[1:-1].float()
        error = (e2m1.decode(e2m1.encode(x)) - x).double().mean().item()
        assert abs(error) < 1e-6 * (high - low), (low, high, error)


def test_zero_keeps_its_sign_and_large_values_saturate():
    x = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 0.1, -0.1, 6.5, -1e30, float("inf"), float("-inf")])
    assert codes(e2m1.encode(x)).tolist() == [0, 8, 0, 8, 0, 8, 7, 15, 7, 15]


def test_leading_dimensions_strides_and_no_rows():
    x = torch.randn(3, 5, 8)
    packed = e2m1.encode(x)
    assert packed.shape == (3, 5, 4) and packed.dtype == torch.int8
    assert torch.equal(e2m1.encode(x.transpose(0, 1)), packed.transpose(0, 1))
    assert torch.equal(e2m1.encode(x.transpose(1, 2).contiguous().transpose(1, 2)), packed)
    assert torch.equal(e2m1.decode(packed.transpose(0, 1)), e2m1.decode(packed).transpose(0, 1))
    assert e2m1.encode(torch.empty(0, 8)).shape == (0, 4)
    assert e2m1.decode(torch.empty(0, 4, dtype=torch.int8)).shape == (0, 8)


def test_a_table_made_in_inference_mode_serves_autograd():
    e2m1._pairs.cache_clear()
    with torch.inference_mode():
        e2m1.decode(ALL_BYTES)
    w = torch.ones(512, requires_grad=True)
    (w * e2m1.decode(ALL_BYTES)).sum().backward()
    assert torch.equal(w.grad, e2m1.decode(ALL_BYTES))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"torch\.int16.*int8 or uint8"):
        e2m1.decode(torch.zeros(2, dtype=torch.int16))
    with pytest.raises(ValueError, match=r"torch\.int32.*bfloat16"):
        e2m1.decode(torch.zeros(2, dtype=torch.int8), torch.int32)
    with pytest.raises(ValueError, match=r"dimension 3 is odd"):
        e2m1.encode(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"torch\.float64.*float32"):
        e2m1.encode(torch.zeros(2, dtype=torch.float64))


def swapped_nibbles(monkeypatch):
    decode = e2m1.decode
    monkeypatch.setattr(e2m1, "decode", lambda p, *a: decode((p.int() << 4 | (p.int() >> 4 & 15)).to(torch.uint8), *a))


def ties_away_from_zero(monkeypatch):
    encode = e2m1.encode
    monkeypatch.setattr(e2m1, "encode", lambda x: encode(x.float() * (1 + 2.0**-20)))


def truncation(monkeypatch):
    values = torch.tensor(e2m1.VALUES[:8])
    encode = e2m1.encode

    def truncate(x):
        floor = values[torch.searchsorted(values, x.float().abs().clamp(max=6), right=True) - 1]
        return encode(floor.copysign(x.float()))

    monkeypatch.setattr(e2m1, "encode", truncate)


def unsigned_zero(monkeypatch):
    encode = e2m1.encode
    monkeypatch.setattr(e2m1, "encode", lambda x: encode(x + 0.0))


def rounded_to_bf16_first(monkeypatch):
    encode = e2m1.encode
    monkeypatch.setattr(e2m1, "encode", lambda x: encode(x.bfloat16()))


@pytest.mark.parametrize(
    ("mutate", "test"),
    [
        (swapped_nibbles, test_byte_0x21_is_one_half_then_one),
        (swapped_nibbles, test_every_byte_and_scale_decodes_as_gguf_mxfp4),
        (swapped_nibbles, test_encode_undoes_decode_for_every_byte),
        (ties_away_from_zero, lambda: test_ties_go_to_the_even_code(torch.float32)),
        (truncation, test_rounding_has_no_bias),
        (unsigned_zero, test_zero_keeps_its_sign_and_large_values_saturate),
        (rounded_to_bf16_first, test_float32_rounds_once),
    ],
)
def test_mutants_are_caught(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        test()
