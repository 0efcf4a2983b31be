"""Scales in e8m0 (torch.float8_e8m0fnu): byte b is 2^(b-127), 255 is NaN; neither sign nor zero.

Source: OCP MX specification 1.0 section 5.4.1; the official kernels for how a scale is rounded.
"""

import torch


def decode(scale: torch.Tensor) -> torch.Tensor:
    """float8_e8m0fnu or uint8 scales to float32 of the same shape. Exact: byte 0 is the subnormal 2^-127.

    Raises ValueError for another type.
    """
    exponent = as_bytes(scale).to(torch.int32)
    bits = (exponent << 23).masked_fill_(exponent == 0, 1 << 22).masked_fill_(exponent == 255, 0x7FC00000)
    return bits.view(torch.float32)


def as_bytes(scale: torch.Tensor) -> torch.Tensor:
    """Returns the bytes of e8m0 scales, uint8, sharing their memory. Raises ValueError for another type."""
    if scale.dtype not in (torch.float8_e8m0fnu, torch.uint8):
        raise ValueError(f"scale of type {scale.dtype}; allowed are float8_e8m0fnu and uint8")
    return scale.view(torch.uint8)


def ceil_scale(amax: torch.Tensor, largest: float) -> torch.Tensor:
    """Scales 2^ceil(log2(amax / largest)): float32 `amax` >= 0 to float8_e8m0fnu of the same shape.

    The computation is that of the official kernels: one float32 product with the float32 nearest to 1/largest, then the
    exponent field, plus one if any mantissa bit is set. For 6 and 448 that reciprocal is rounded up, so that
    `amax` never exceeds `largest` times its scale. Zero gives 2^-127; infinity and NaN give NaN.
    Raises ValueError unless `amax` is float32.
    """
    if amax.dtype != torch.float32:
        raise ValueError(f"amax of type {amax.dtype}; allowed is float32")
    # torch rounds the Python number to float32 first. The clamp gives every NaN infinity's exponent, 255.
    bits = (amax * (1 / largest)).view(torch.int32).clamp_(max=0x7F800000)
    return ((bits + 0x7FFFFF) >> 23).to(torch.uint8).view(torch.float8_e8m0fnu)
