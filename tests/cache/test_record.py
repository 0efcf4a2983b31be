"""Packed records against an independent numpy account of their bytes: all bit patterns, extreme scales, odd sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from wavefold.cache.record import IndexRecord, KVRecord, PlainRecord, Record, packed_records
from wavefold.config import ModelConfig
from wavefold.quant import fp4_sim, fp8_sim

E4M3 = np.array(
    [(m / 8) * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)]
)  # magnitudes of codes 0 .. 127; the last is NaN
E4M3[127] = np.nan
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def nearest(x: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """The code (without sign) whose magnitude is nearest to each |x|, ties to the even code, by search."""
    a = np.abs(x.astype(np.float64))
    distance = np.abs(a[..., None] - magnitudes)
    best = distance.min(-1, keepdims=True)
    codes = np.arange(len(magnitudes))
    return np.where(distance == best, codes + 1000 * (codes % 2), 10**6).argmin(-1)


def exponent_of(amax: float, floor: float, largest: float) -> int:
    """ceil(log2(max(amax, floor) / largest)), the quotient rounded as a float32 product with 1 / largest."""
    quotient = np.float32(max(np.float32(amax), np.float32(floor))) * np.float32(1 / largest)
    mantissa, exponent = math.frexp(float(quotient))
    return exponent - 1 if mantissa == 0.5 else exponent


def encode_blocks(x: np.ndarray, block: int, magnitudes: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes with the sign as the bit above the magnitude's, and scale bytes."""
    sign = len(magnitudes) if len(magnitudes) == 8 else 128
    codes, scales = [], []
    for first in range(0, len(x), block):
        part = x[first : first + block].astype(np.float64)
        exponent = exponent_of(np.abs(part).max(), floor, 448 if sign == 128 else 6)
        scaled = part / 2.0**exponent
        codes.append(nearest(scaled, magnitudes) + sign * np.signbit(part))
        scales.append(exponent + 127)
    return np.concatenate(codes).astype(np.uint8), np.array(scales, np.uint8)


def kv_row(x: np.ndarray, rope_bits: np.ndarray) -> bytes:
    """x: values without position; rope_bits: uint16 bfloat16 patterns."""
    codes, scales = encode_blocks(x, 64, E4M3[:127], 1e-4)
    row = codes.tobytes() + rope_bits.astype("<u2").tobytes() + scales.tobytes()
    return row + bytes(-len(row) % 8)


def index_row(x: np.ndarray) -> bytes:
    codes, scales = encode_blocks(x, 32, E2M1, 6 * 2.0**-126)
    return (codes[0::2] | codes[1::2] << 4).tobytes() + scales.tobytes()


def test_sizes() -> None:
    for preset in ("flash", "pro", "nano"):
        records = packed_records(ModelConfig.preset(preset))
        assert (records.kv.num_bytes, records.index.num_bytes) == (584, 68)
    assert KVRecord(96, 32).num_bytes == 64 + 64 + 1 + 7  # general: nope + 2 rope + ceil(nope / 64), padded to 8
    assert KVRecord(80, 16).num_bytes == 64 + 32 + 1 + 7
    assert KVRecord(100, 30).num_bytes == -(-(70 + 60 + 2) // 8) * 8


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 0.01, 1, 300, 1e5, 1e30])
@pytest.mark.parametrize(("dim", "rope"), [(512, 64), (100, 30)])
def test_kv_bytes(magnitude: float, dim: int, rope: int) -> None:
    generator = torch.Generator().manual_seed(int(dim + 1000 * math.log(magnitude)) & 0xFFFF)
    rows = (torch.randn(6, dim, generator=generator) * magnitude).to(torch.bfloat16)
    rows[:, ::7] = 0.0
    rows[:, 3::7] = -0.0
    rope_bits = rows[:, dim - rope :].contiguous().view(torch.int16).numpy().astype(np.uint16)
    expected = [kv_row(row.float().numpy(), bits) for row, bits in zip(rows[:, : dim - rope], rope_bits, strict=True)]
    assert [row.numpy().tobytes() for row in KVRecord(dim, rope).encode(rows)] == expected


@pytest.mark.parametrize("magnitude", [1e-37, 1e-6, 0.01, 1, 300, 1e30])
def test_index_bytes(magnitude: float) -> None:
    rows = (torch.randn(6, 128, generator=torch.Generator().manual_seed(7)) * magnitude).to(torch.bfloat16)
    expected = [index_row(row.float().numpy()) for row in rows]
    assert [row.numpy().tobytes() for row in IndexRecord(128).encode(rows)] == expected


@pytest.mark.parametrize("scale", [0, 1, 119, 127, 140, 245, 254, 255])
def test_every_kv_code_is_decoded(scale: int) -> None:
    """All 256 codes under this scale byte, and all 65,536 patterns of bfloat16."""
    stored = torch.zeros(1024, 584, dtype=torch.uint8)
    stored[:, :448] = torch.arange(1024 * 448).view(1024, 448) % 256
    stored[:, 448:576] = torch.arange(65536).to(torch.uint16).view(torch.uint8).view(1024, 128)
    stored[:, 576:583] = scale
    rows = KVRecord(512, 64).decode(stored)
    values = np.concatenate((E4M3, -E4M3)) * (np.nan if scale == 255 else 2.0 ** (scale - 127))
    expected = torch.from_numpy(values).to(torch.bfloat16)[stored[:, :448].long()]
    assert torch.equal(rows[:, :448].nan_to_num(7e7, 8e7, 9e7), expected.nan_to_num(7e7, 8e7, 9e7))
    assert torch.equal(torch.signbit(rows[:, :448])[expected == 0], torch.signbit(expected)[expected == 0])
    assert torch.equal(rows[:, 448:].contiguous().view(torch.uint8), stored[:, 448:576])


@pytest.mark.parametrize("scale", [0, 1, 119, 127, 140, 253, 255])
def test_every_index_code_is_decoded(scale: int) -> None:
    stored = torch.zeros(256, 68, dtype=torch.uint8)
    stored[:, :64] = torch.arange(256, dtype=torch.uint8)[:, None]
    stored[:, 64:] = scale
    codes = torch.arange(256)
    values = np.concatenate((E2M1, -E2M1)) * (np.nan if scale == 255 else 2.0 ** (scale - 127))
    expected = torch.from_numpy(values).to(torch.bfloat16)[torch.stack((codes & 15, codes >> 4), 1).repeat(1, 64)]
    rows = IndexRecord(128).decode(stored)
    assert torch.equal(rows.nan_to_num(7e7), expected.nan_to_num(7e7))


@pytest.mark.parametrize("magnitude", [1e-6, 1, 500])
def test_what_was_rounded_before_is_kept_unchanged(magnitude: float) -> None:
    """Released arithmetic rounds before it caches: a packed cache then loses nothing."""
    rows = (torch.randn(2000, 512, generator=torch.Generator().manual_seed(1)) * magnitude).to(torch.bfloat16)
    rows[:, :448] = fp8_sim(rows[:, :448])
    kv, index = KVRecord(512, 64), IndexRecord(128)
    assert torch.equal(kv.decode(kv.encode(rows)), rows)
    keys = fp4_sim(rows[:, 384:])
    assert torch.equal(index.decode(index.encode(keys)), keys)


@pytest.mark.parametrize("record", [KVRecord(512, 64), IndexRecord(128), KVRecord(8, 8), PlainRecord(7, torch.float32),
                                    PlainRecord(7, torch.bfloat16)], ids=str)  # fmt: skip
def test_poison_decodes_to_nan_and_storage_has_the_stated_bytes(record: Record) -> None:
    stored = record.empty(3, 5, device=torch.device("cpu"))
    assert stored.shape[:-1] == (3, 5) and stored.numel() * stored.element_size() == 15 * record.num_bytes
    record.poison(stored)
    assert record.decode(stored).isnan().all() and record.decode(stored).shape == (3, 5, record.dim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_plain_record_keeps_every_bit(dtype: torch.dtype) -> None:
    rows = torch.randn(5, 7, dtype=dtype)
    record = PlainRecord(7, dtype)
    assert torch.equal(record.decode(record.encode(rows)), rows)


def test_a_value_that_is_not_finite_spoils_its_block_and_no_other() -> None:
    rows = torch.ones(1, 512, dtype=torch.bfloat16)
    rows[0, 70] = torch.inf
    spoiled = KVRecord(512, 64).decode(KVRecord(512, 64).encode(rows)).isnan()[0]
    assert spoiled[64:128].all() and spoiled.sum() == 64
