"""Activations in FP8 and FP4, as in the released model.

    act_quant   before a GEMM with a quantized weight: e4m3 codes, a scale per row and 128 columns
    fp8_sim     KV entries, the dimensions without RoPE: to e4m3 and back, a scale per 64
    fp4_sim     index queries and keys: to e2m1 and back, a scale per 32

The released model was trained through these roundings, so its arithmetic includes the simulated ones.
Results carry no gradient: the caller adds a straight-through estimate. A value that is not finite
makes its whole block NaN. Source: the official kernels, in the revision whose FP8 simulation rounds to e4m3;
DeepSeek-V4 report section 5.2.1.
"""

import torch

from .rows import dequantize_rows, quantize_rows_fp4, quantize_rows_fp8

FP8_FLOOR = 1e-4
"""The official kernels' smallest amax of an FP8 activation block, which keeps its scale off zero."""


def act_quant(x: torch.Tensor, block: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 codes and scales of activations.

    x, bfloat16, float16 or float32 [..., n], to float8_e4m3fn [..., n] and float8_e8m0fnu
    [..., ceil(n / block)]. A scale is 2^ceil(log2(max(amax, 1e-4) / 448)); no value is clipped, and zeros
    keep their sign. If n is no multiple of `block`, the last block is shorter.
    Raises ValueError for another type or n = 0.
    """
    return quantize_rows_fp8(x, block, FP8_FLOOR)


def fp8_sim(x: torch.Tensor, block: int = 64) -> torch.Tensor:
    """Returns x [..., n] through `act_quant` and back, a new tensor of x's type."""
    codes, scale = act_quant(x, block)
    return dequantize_rows(codes, scale, block, x.dtype)


def fp4_quant(x: torch.Tensor, block: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed e2m1 codes and scales of activations.

    x, bfloat16, float16 or float32 [..., n], to int8 [..., n/2] and float8_e8m0fnu [..., ceil(n / block)].
    A scale is 2^ceil(log2(max(amax, 6 * 2^-126) / 6)); no value is clipped, and zeros keep their sign. If n
    is no multiple of `block`, the last block is shorter.
    Raises ValueError for another type, n = 0 or an odd n.
    """
    return quantize_rows_fp4(x, block)


def fp4_sim(x: torch.Tensor, block: int = 32) -> torch.Tensor:
    """Returns x [..., n] through `fp4_quant` and back, a new tensor of x's type."""
    codes, scale = fp4_quant(x, block)
    return dequantize_rows(codes, scale, block, x.dtype)
