"""Formats without a search over super-blocks: F32, F16, BF16, Q8_0, MXFP4.

Q8_0 and the plain types have the bytes of llama.cpp's converter. MXFP4 chooses among scales by weighted error; the
bytes of FP4 experts are moved, not searched for (`mxfp4_of_fp4`).
Source: ggml-common.h; OCP MX specification 1.0 section 5.3.3 for the values of MXFP4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.quant import e2m1, e8m0

from .half import half, half_bytes, inverse

BLOCK = 32
NO_SCALE = 255
"""The byte of an e8m0 scale that is NaN in FP4, and 2^128 in MXFP4."""
STEPS_DOWN = 2
"""Powers of two below the scale that clips nothing, which are tried for MXFP4."""


def narrow(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns values [rows, columns] in float16 or bfloat16, as bytes [rows, 2 columns] and as they were rounded."""
    rounded = values.to(dtype)
    return as_bytes(rounded), rounded.float()


def as_bytes(values: Tensor) -> Tensor:
    """Returns the bytes of values [rows, columns] as they lie in memory: uint8 [rows, bytes]."""
    return values.contiguous().view(torch.uint8).view(len(values), -1)


def q8_0(values: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [rows, columns] -> bytes and values. Scales are largest / 127, ties are rounded away from zero."""
    x = values.reshape(-1, BLOCK)
    d = x.abs().amax(1) / 127
    scaled = x * inverse(d)[:, None]
    magnitude = scaled.abs()
    whole = magnitude.floor()
    whole = (whole + (2 * (magnitude - whole)).floor()) * scaled.sign()
    codes = whole.to(torch.int8).view(torch.uint8)
    return torch.cat((half_bytes(d), codes), 1), whole * half(d)[:, None]


def mxfp4(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [rows, columns] -> bytes and values: the scale of smallest weighted error for each 32 columns."""
    codes, scales = fp4(values, weights)
    restored = e2m1.decode(codes.view(-1, BLOCK // 2)) * e8m0.decode(scales.view(-1, 1))
    return mxfp4_of_fp4(codes, scales), restored


def fp4(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [rows, columns] -> FP4 bytes uint8 [rows, columns / 2], scales uint8 [rows, columns / 32], as `mxfp4`."""
    x, w = values.reshape(-1, BLOCK), weights.reshape(-1, BLOCK)
    amax = x.abs().amax(1)
    top = e8m0.as_bytes(e8m0.ceil_scale(amax.clamp(min=e2m1.LARGEST * 2.0**-126), e2m1.LARGEST)).int()
    best_error = torch.full_like(amax, torch.inf)
    best_byte, best_codes = top, torch.zeros_like(x[:, : BLOCK // 2], dtype=torch.uint8)
    for step in range(STEPS_DOWN + 1):
        byte = (top - step).clamp(min=1)
        scale = e8m0.decode(byte.to(torch.uint8))[:, None]
        codes = e2m1.encode((x / scale).clamp_(-e2m1.LARGEST, e2m1.LARGEST))
        error = (w * (e2m1.decode(codes) * scale - x).square_()).sum(1)
        better = error < best_error
        best_error, best_byte = torch.where(better, error, best_error), torch.where(better, byte, best_byte)
        best_codes = torch.where(better[:, None], codes.view(torch.uint8), best_codes)
    return best_codes.view(len(values), -1), best_byte.to(torch.uint8).view(len(values), -1)


def mxfp4_of_fp4(codes: Tensor, scales: Tensor) -> Tensor:
    """FP4 bytes [rows, columns / 2], scales [rows, columns / 32] -> blocks [rows, columns / 32 * 17], the same values.

    FP4 has neighbours in a byte, ggml values 16 apart. No bit of a code or scale changes.
    """
    packed = codes.contiguous().view(torch.uint8).view(len(codes), -1, BLOCK // 2)
    values = torch.stack((packed & 15, packed >> 4), -1).flatten(2)
    blocks = values[..., : BLOCK // 2] | values[..., BLOCK // 2 :] << 4
    return torch.cat((scales.contiguous().view(torch.uint8)[..., None], blocks), 2).flatten(1)


def fp4_of_mxfp4(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks [rows, columns / 32 * 17] -> FP4 codes int8 [rows, columns / 2], scales e8m0 [rows, columns / 32].

    The other way of `mxfp4_of_fp4`. Raises ValueError for a scale of 2^128, whose byte means NaN in FP4.
    """
    parts = blocks.view(len(blocks), -1, 1 + BLOCK // 2)
    scales = parts[..., 0].contiguous()
    if (scales == NO_SCALE).any():
        raise ValueError("a block has the scale 2^128, which FP4 lacks; expected at most 2^127")
    packed = parts[..., 1:]
    values = torch.cat((packed & 15, packed >> 4), -1)
    codes = values[..., 0::2] | values[..., 1::2] << 4
    return codes.flatten(1).view(torch.int8), scales.view(torch.float8_e8m0fnu)
