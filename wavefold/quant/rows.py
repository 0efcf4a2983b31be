"""Rows cut into blocks of columns, each block with one e8m0 scale, for weights and activations.

    x [..., n] -> amax of each block -> power-of-two scale -> codes of x / scale

Where n is no multiple of the block, the last block of a row is shorter. The 128x128 blocks of an FP8 weight
become blocks of a row by repeating each scale for its 128 rows.
Source: OCP MX specification 1.0 section 6; scales and their floors as in the official kernels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from . import e2m1, e4m3, e8m0

CPU_CHUNK = 1 << 19
"""Elements processed at a time on a CPU, so that temporaries stay in cache (2 to 5 times faster)."""

FP4_FLOOR = 6 * 2.0**-126
"""The official kernels' smallest amax of an FP4 block: its scale is the smallest normal float32."""


def by_rows(fn: Callable[..., tuple[torch.Tensor, ...]], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns `fn(*inputs)`, computed on a CPU in chunks of rows: the first dimension of all inputs and outputs."""
    num_rows = inputs[0].shape[0]
    step = max(1, CPU_CHUNK * num_rows // max(1, inputs[0].numel()))
    if inputs[0].device.type != "cpu" or step >= num_rows:
        return fn(*inputs)
    outputs: tuple[torch.Tensor, ...] = ()
    for start in range(0, num_rows, step):
        parts = fn(*(x[start : start + step] for x in inputs))
        outputs = outputs or tuple(part.new_empty(num_rows, *part.shape[1:]) for part in parts)
        for output, part in zip(outputs, parts, strict=True):
            output[start : start + step] = part
    return outputs


def num_blocks(num_columns: int, block: int) -> int:
    """Returns the number of blocks that cover `num_columns` columns. The last block may be partial."""
    return -(-num_columns // block)


def in_blocks(x: torch.Tensor, block: int) -> torch.Tensor:
    """[..., n] to [..., ceil(n / block), block]: a view, or a copy with zeros after a short last block."""
    n = x.shape[-1]
    if n % block:
        x = F.pad(x, (0, -n % block))
    return x.unflatten(-1, (num_blocks(n, block), block))


def block_amax(x: torch.Tensor, block: int) -> torch.Tensor:
    """Largest magnitude per block, or NaN: bfloat16 or float32 [..., n] to float32 [..., ceil(n / block)]."""
    # As integers, magnitudes order like the floats, with NaN on top; and integers reduce faster on a CPU.
    integer, magnitude = {2: (torch.int16, 0x7FFF), 4: (torch.int32, 0x7FFFFFFF)}[x.dtype.itemsize]
    return in_blocks(x.view(integer) & magnitude, block).amax(-1).view(x.dtype).float()


def scale_rows_(x: torch.Tensor, scale: torch.Tensor, block: int) -> torch.Tensor:
    """Multiplies in place each block of x [rows, n] by its entry in scale [rows, ceil(n / block)]."""
    full = x.shape[-1] // block
    if full:
        x[:, : full * block].unflatten(-1, (full, block)).mul_(scale[:, :full, None])
    if x.shape[-1] % block:
        x[:, full * block :].mul_(scale[:, full:])
    return x


def as_quantizable(x: torch.Tensor) -> torch.Tensor:
    """Returns x without gradient, in bfloat16 or float32: their exponents can hold the reciprocal of a scale.

    Raises ValueError unless x is bfloat16, float16 or float32 and its last dimension is not empty.
    """
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"cannot quantize {x.dtype}; allowed are bfloat16, float16 and float32")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"cannot quantize shape {tuple(x.shape)}; the last dimension must not be empty")
    return x.detach().float() if x.dtype == torch.float16 else x.detach()


def over_scale(x: torch.Tensor, scale: torch.Tensor, block: int) -> torch.Tensor:
    """Returns x / scale, a new tensor: bfloat16 or float32 [rows, n], uint8 or e8m0 scale [rows, ceil(n / block)]."""
    # Byte 254 - b is the reciprocal of byte b, and NaN wraps to NaN. The product is exact unless so small
    # that any code rounds it to zero.
    reciprocal = e8m0.decode(254 - e8m0.as_bytes(scale)).to(x.dtype)
    return scale_rows_(x.clone(memory_format=torch.contiguous_format), reciprocal, block)


def quantize_rows_fp8(x: torch.Tensor, block: int, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn codes [..., n] and float8_e8m0fnu scales [..., ceil(n / block)] of x [..., n].

    A scale is 2^ceil(log2(max(amax, floor) / 448)). Raises ValueError as `as_quantizable` does.
    """
    x = as_quantizable(x)

    def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = e8m0.ceil_scale(block_amax(x, block).clamp_(min=floor), e4m3.LARGEST)
        # The official clamp to 448 is left out: with `ceil_scale` it never acts.
        return over_scale(x, scale, block).to(torch.float8_e4m3fn), scale

    codes, scale = by_rows(quantize, x.reshape(-1, x.shape[-1]))
    return codes.view(x.shape), scale.view(*x.shape[:-1], scale.shape[-1])


def quantize_rows_fp4(x: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed e2m1 codes, int8 [..., n/2], and float8_e8m0fnu scales [..., ceil(n / block)] of x [..., n].

    A scale is 2^ceil(log2(max(amax, 6 * 2^-126) / 6)).
    Raises ValueError as `as_quantizable` does and for an odd n.
    """
    x = as_quantizable(x)

    def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = e8m0.ceil_scale(block_amax(x, block).clamp_(min=FP4_FLOOR), e2m1.LARGEST)
        return e2m1.encode(over_scale(x, scale, block)), scale

    codes, scale = by_rows(quantize, x.reshape(-1, x.shape[-1]))
    return codes.view(*x.shape[:-1], codes.shape[-1]), scale.view(*x.shape[:-1], scale.shape[-1])


def dequantize_rows(
    codes: torch.Tensor, scale: torch.Tensor, block: int, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Returns code * scale, a new tensor [..., n] of any floating `dtype`.

    codes: int8 or uint8 (packed e2m1) [..., n/2], or float8_e4m3fn [..., n]. scale: float8_e8m0fnu or uint8
    [..., ceil(n / block)]. It is exact where `dtype` holds the product: bfloat16 and float32 do in their
    normal range. Raises ValueError where types or shapes do not fit.
    """
    fp8 = codes.dtype == torch.float8_e4m3fn
    decode = e4m3.decode if fp8 else e2m1.decode
    n = codes.shape[-1] if fp8 else 2 * codes.shape[-1]
    expected = (*codes.shape[:-1], num_blocks(n, block))
    if scale.shape != expected:
        raise ValueError(
            f"scale of shape {tuple(scale.shape)} for {tuple(codes.shape)} codes of {codes.dtype} in blocks "
            f"of {block}; allowed is {expected}"
        )
    # bfloat16 has float32's exponents and holds every scale; for other types the product is float32's.
    through = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32

    def dequantize(codes: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor]:
        return (scale_rows_(decode(codes, through), e8m0.decode(scale).to(through), block).to(dtype),)

    (values,) = by_rows(dequantize, codes.reshape(-1, codes.shape[-1]), scale.reshape(-1, scale.shape[-1]))
    return values.view(*codes.shape[:-1], n)
