"""Weights as the official checkpoint stores them, and the conversions between their formats.

    routed experts   int8 [out, in/2], two e2m1 codes to a byte    scale e8m0 [out, in/32]
    other linears    float8_e4m3fn [out, in]                       scale e8m0 [out/128, in/128]
    the rest         bfloat16 or float32 [out, in]                 no scale

Scale counts round up: a partial block at an edge has a scale. All functions also take leading dimensions, such as a
stack of experts. None carries a gradient.

FP4 becomes FP8 without loss because e4m3 has exponents to spare. With a 128x128 block's scale at 2^-6 times
its largest 1x32 scale, the values of a 1x32 scale up to 2^14 times smaller still are e4m3 values.
Source: official checkpoint format and converter; DeepSeek-V4 report section 5.2.1.
"""

import torch
import torch.nn.functional as F

from . import e2m1, e4m3, e8m0
from .rows import (
    as_quantizable,
    block_amax,
    by_rows,
    dequantize_rows,
    in_blocks,
    num_blocks,
    over_scale,
    quantize_rows_fp4,
    scale_rows_,
)

FP8_BLOCK = 128
"""Rows, and columns, of a weight that share an FP8 scale."""
FP4_BLOCK = 32
"""Columns of one row of a weight that share an FP4 scale."""

FP4_PER_FP8 = FP8_BLOCK // FP4_BLOCK
LARGEST_SPREAD = 14
"""log2 of the largest ratio of FP4 scales at which an FP8 block holds all values."""
HEADROOM = 6
"""log2 of the largest factor by which FP4 values grow inside FP8: 6 * 2^6 = 384 <= 448."""
SMALLEST_NORMAL = 2.0**-126


def dequantize(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Returns the values [..., out, in] of a stored weight, in `dtype`.

    The type of `weight` tells its format: int8 or uint8 (FP4) and float8_e4m3fn come with the `scale` of the
    table above, float8_e8m0fnu or uint8; bfloat16, float16 and float32 come with None, and are returned
    unchanged if `dtype` is their type. Otherwise the result is new. It is exact in the normal range of bfloat16 and
    float32. Raises ValueError where types or shapes do not fit.
    """
    if weight.dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        if scale is not None:
            raise ValueError(f"{weight.dtype} weight with a scale; allowed are int8, uint8 and float8_e4m3fn")
        return weight.to(dtype)
    if scale is None:
        raise ValueError(f"{weight.dtype} weight without a scale; allowed are bfloat16, float16 and float32")
    if weight.dtype == torch.float8_e4m3fn:
        _check_fp8(weight, scale)
        return dequantize_rows(weight, _repeat_rows(e8m0.as_bytes(scale), weight.shape[-2]), FP8_BLOCK, dtype)
    _check_fp4(weight, scale)
    return dequantize_rows(weight, scale, FP4_BLOCK, dtype)


def quantize_fp4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest FP4 weight: [..., out, in] to (int8 [..., out, in/2], float8_e8m0fnu [..., out, in/32]).

    Scales are rounded up, so that nothing is clipped; a block of zeros gets 2^-126. Raises ValueError unless
    `weight` is bfloat16, float16 or float32 and `in` is even.
    """
    _check_matrix(weight)
    return quantize_rows_fp4(weight, FP4_BLOCK)


def quantize_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest FP8 weight: [..., out, in] to (float8_e4m3fn, float8_e8m0fnu [..., out/128, in/128]).

    Scales are rounded up, so that nothing is clipped; a block of zeros gets 2^-126. Raises ValueError unless
    `weight` is bfloat16, float16 or float32.
    """
    _check_matrix(weight)
    weight = as_quantizable(weight)
    amax = _max_of_rows(block_amax(weight, FP8_BLOCK))
    scale = e8m0.ceil_scale(amax.clamp_(min=e4m3.LARGEST * SMALLEST_NORMAL), e4m3.LARGEST)

    def encode(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor]:
        return (over_scale(weight, scale, FP8_BLOCK).to(torch.float8_e4m3fn),)

    row_bytes = _repeat_rows(e8m0.as_bytes(scale), weight.shape[-2])
    (codes,) = by_rows(encode, weight.flatten(0, -2), row_bytes.flatten(0, -2))
    return codes.view(weight.shape), scale


def fp4_to_fp8(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns an FP4 weight as an FP8 weight of the same values, by the official converter's rule.

    weight int8 or uint8 [..., out, in/2] and scale e8m0 [..., out, in/32] to float8_e4m3fn [..., out, in] and
    float8_e8m0fnu [..., out/128, in/128], each block's largest FP4 scale over 2^6. It checks every value:
    ValueError names the first 128x128 block that e4m3 cannot hold. All values are safe while the largest FP4
    scale of a block is at most 2^14 times its smallest; beyond that it depends on the values. Minus zero
    becomes zero: the converter's table has a plain 0 for code 8.
    """
    _check_fp4(weight, scale)
    num_rows, n = weight.shape[-2], 2 * weight.shape[-1]
    fp4_bytes = e8m0.as_bytes(scale)
    # Bytes order as the scales do, with NaN (255) on top.
    largest = _max_of_rows(in_blocks(fp4_bytes, FP4_PER_FP8).amax(-1))
    fp8_bytes = largest.clamp(min=HEADROOM) - HEADROOM
    row_bytes = _repeat_rows(fp8_bytes, num_rows).repeat_interleave(FP4_PER_FP8, -1)[..., : scale.shape[-1]]
    # FP4 scale over FP8 scale, again as e8m0. Where the clamp acts, the comparison below finds the loss.
    ratio = (fp4_bytes.to(torch.int16) - row_bytes + 127).clamp_(min=0).to(torch.uint8)

    def convert(weight: torch.Tensor, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = scale_rows_(e2m1.decode(weight, torch.bfloat16), e8m0.decode(ratio).bfloat16(), FP4_BLOCK)
        codes = values.add_(0.0).to(torch.float8_e4m3fn)  # -0 + 0 is 0
        return codes, in_blocks(e4m3.decode(codes, torch.bfloat16) != values, FP8_BLOCK).any(-1)

    codes, lossy = by_rows(convert, weight.flatten(0, -2), ratio.flatten(0, -2))
    refused = _max_of_rows(lossy.unflatten(0, weight.shape[:-1]).to(torch.uint8)).bool() | (largest == 255)
    if refused.any():
        block = refused.nonzero()[0].tolist()
        raise ValueError(f"fp4_to_fp8 would lose values in 128x128 block {block}: {_ratio(fp4_bytes, block)}")
    return codes.view(*weight.shape[:-1], n), fp8_bytes.view(torch.float8_e8m0fnu)


def fp8_to_fp4(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns an FP8 weight as an FP4 weight of the same values, if there is one: the inverse of `fp4_to_fp8`.

    weight float8_e4m3fn [..., out, in] and scale e8m0 [..., out/128, in/128] to int8 [..., out, in/2] and
    float8_e8m0fnu [..., out, in/32]. Values come back bit for bit. Scales are the smallest that reach the
    largest value (for a block of zeros, the FP8 scale), perhaps smaller than those of the original weight.
    Raises ValueError for an odd `in`, and naming the first 1x32 block that is exact under no scale.
    """
    if weight.dtype != torch.float8_e4m3fn:
        raise ValueError(f"fp8_to_fp4 of a {weight.dtype} weight; allowed is float8_e4m3fn")
    _check_fp8(weight, scale)
    num_rows, n = weight.shape[-2:]
    row_bytes = _repeat_rows(e8m0.as_bytes(scale), num_rows).repeat_interleave(FP4_PER_FP8, -1)
    row_bytes = row_bytes[..., : num_blocks(n, FP4_BLOCK)]

    def convert(weight: torch.Tensor, fp8_bytes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = e4m3.decode(weight)
        amax = block_amax(values, FP4_BLOCK)
        # The smallest scale that reaches the largest value has the finest steps: if it is not exact, none is.
        ratio = e8m0.as_bytes(e8m0.ceil_scale(amax, e2m1.LARGEST)).masked_fill_(amax == 0, 127)
        fp4_bytes = (ratio.to(torch.int16) + fp8_bytes - 127).clamp_(0, 254)
        ratio = (fp4_bytes - fp8_bytes + 127).to(torch.uint8)
        codes = e2m1.encode(over_scale(values, ratio, FP4_BLOCK))
        decoded = scale_rows_(e2m1.decode(codes), e8m0.decode(ratio), FP4_BLOCK)
        lossy = in_blocks(decoded != values, FP4_BLOCK).any(-1) | (fp8_bytes == 255)
        return codes, fp4_bytes.to(torch.uint8), lossy

    codes, fp4_bytes, lossy = by_rows(convert, weight.flatten(0, -2), row_bytes.flatten(0, -2))
    if lossy.any():
        *row, block = lossy.view(row_bytes.shape).nonzero()[0].tolist()
        columns = slice(block * FP4_BLOCK, min(n, (block + 1) * FP4_BLOCK))
        magnitudes = sorted({abs(value) for value in weight[tuple(row)][columns].float().tolist()})
        byte = int(row_bytes[tuple(row)][block])
        raise ValueError(
            f"fp8_to_fp4 would lose values in row {row}, columns {columns.start} to {columns.stop - 1}: magnitudes "
            f"{magnitudes} times {'NaN' if byte == 255 else f'2^{byte - 127}'}; allowed are 0, 0.5, 1, 1.5, 2, 3, 4 "
            "and 6 times one power of two, 2^-127 to 2^127"
        )
    return codes.view(*weight.shape[:-1], n // 2), fp4_bytes.view(row_bytes.shape).view(torch.float8_e8m0fnu)


def _ratio(fp4_bytes: torch.Tensor, block: list[int]) -> str:
    """Returns the part of an error message about the FP4 scales of a 128x128 block."""
    *batch, row, column = block
    scales = fp4_bytes[tuple(batch)][row * FP8_BLOCK :, column * FP4_PER_FP8 :][:FP8_BLOCK, :FP4_PER_FP8]
    low, high = int(scales.min()), int(scales.max())
    if high == 255:
        return "an FP4 scale is NaN (byte 255); allowed are bytes 0 to 254"
    return (
        f"its largest FP4 scale, 2^{high - 127}, is 2^{high - low} times its smallest and a value falls "
        "between e4m3 codes; allowed for any values is 2^14"
    )


def _check_matrix(weight: torch.Tensor) -> None:
    if weight.dim() < 2:
        raise ValueError(f"weight of shape {tuple(weight.shape)}; allowed is [..., out, in]")


def _check_fp4(weight: torch.Tensor, scale: torch.Tensor) -> None:
    if weight.dtype not in (torch.int8, torch.uint8):
        raise ValueError(f"FP4 weight of type {weight.dtype}; allowed are int8 and uint8")
    _check_matrix(weight)
    n = 2 * weight.shape[-1]
    _check_scale(weight, scale, (*weight.shape[:-1], num_blocks(n, FP4_BLOCK)))


def _check_fp8(weight: torch.Tensor, scale: torch.Tensor) -> None:
    _check_matrix(weight)
    _check_scale(weight, scale, (*weight.shape[:-2], *(num_blocks(n, FP8_BLOCK) for n in weight.shape[-2:])))


def _check_scale(weight: torch.Tensor, scale: torch.Tensor, expected: tuple[int, ...]) -> None:
    if scale.shape != expected:
        raise ValueError(
            f"scale of shape {tuple(scale.shape)} for a {weight.dtype} weight stored as "
            f"{tuple(weight.shape)}; allowed is {expected}"
        )


def _repeat_rows(per_block: torch.Tensor, num_rows: int) -> torch.Tensor:
    """[..., out/128, k] to [..., out, k]: each row of blocks repeated for its rows of the weight."""
    return per_block.repeat_interleave(FP8_BLOCK, -2)[..., :num_rows, :]


def _max_of_rows(per_row: torch.Tensor) -> torch.Tensor:
    """[..., out, k] to [..., out/128, k]: the largest of each 128 rows, none of them negative."""
    num_rows = per_row.shape[-2]
    padded = F.pad(per_row, (0, 0, 0, -num_rows % FP8_BLOCK))
    return padded.unflatten(-2, (num_blocks(num_rows, FP8_BLOCK), FP8_BLOCK)).amax(-2)


def count_lossy_tiles(weight: torch.Tensor, scale: torch.Tensor) -> int:
    """Returns the number of 128x128 tiles of an FP4 weight that FP8 cannot hold without loss.

    weight int8 or uint8 [out, in/2], scale e8m0 [out, in/32]. Where all scales but those of blocks of zeros are at most
    2^14 apart there is none; else each tile is converted.
    """
    _check_fp4(weight, scale)
    scales = e8m0.as_bytes(scale)
    zeros = scales <= 1  # 2^-126, the scale of a block of zeros
    if int(scales.max()) - int(scales.masked_fill(zeros, 255).min()) <= LARGEST_SPREAD:
        return 0
    lossy = 0
    for row in range(0, weight.shape[-2], FP8_BLOCK):
        for column in range(0, scale.shape[-1], FP4_PER_FP8):
            rows = slice(row, row + FP8_BLOCK)
            codes = weight[..., rows, column * FP4_BLOCK // 2 : (column + FP4_PER_FP8) * FP4_BLOCK // 2]
            try:
                fp4_to_fp8(codes, scale[..., rows, column : column + FP4_PER_FP8])
            except ValueError:
                lossy += 1
    return lossy
