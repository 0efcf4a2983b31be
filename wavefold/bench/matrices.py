"""Random stored matrices for measurements of products: copies of one drawn matrix, each in memory of its own.

Together they have more bytes than a cache, so that a product over one after the other reads memory. They begin `skip`
bytes after a cache line, as matrices in a mapped file do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavefold.quant import FORMATS, Weight
from wavefold.quant.encode import encode
from wavefold.quant.format import SCALE_DTYPE

CACHE_LINE = 64
SKIP = 8
CODE_BITS = {"fp4": 1.5, "fp8": 7.2}
"""Base-2 logarithm of the RMS of uniformly random codes."""
ROUNDED_ROWS = 32
"""Rows of normal values that are rounded to a format with blocks; a matrix repeats them."""


def matrices(form: str, rows: int, columns: int, num_bytes: int, skip: int = SKIP) -> list[Weight]:
    """Returns matrices [rows, columns] in the format `form`, of at least `num_bytes` together, and at least two.

    Raises ValueError for sizes that the format does not store.
    """
    codes, scales = drawn(form, rows, columns)
    count = max(2, -(-num_bytes // stored_bytes(form, rows, columns)))
    packed = FORMATS[form] if FORMATS[form].is_packed else None
    return [Weight.of(placed(codes, skip), None if scales is None else scales.clone(), packed) for _ in range(count)]


def stored_bytes(form: str, rows: int, columns: int) -> int:
    """Bytes of a stored matrix [rows, columns], its scales included."""
    stored = FORMATS[form]
    codes, scales = stored.codes_shape(rows, columns), stored.scales_shape(rows, columns)
    return codes[0] * codes[1] * stored.dtype.itemsize + (scales[0] * scales[1] if scales else 0)


def drawn(form: str, rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Returns codes and scales of a random matrix. No FP8 code is a NaN; blocks hold rounded normal values.

    Outputs for standard normal inputs are about 1 in RMS: scales have one of three exponents around that.
    """
    stored = FORMATS[form]
    width = stored.group[0] if stored.is_packed else stored.block[1] if stored.block else 1
    if rows < 1 or columns < 1 or columns % width:
        raise ValueError(f"{rows} x {columns} in {form} is not allowed; expected columns in multiples of {width}")
    generator = torch.Generator().manual_seed(rows * columns + seed)
    shape = stored.codes_shape(rows, columns)
    if stored.is_packed:
        values = torch.randn(min(rows, ROUNDED_ROWS), columns, generator=generator) * columns**-0.5
        return encode(values, form).rows.repeat(-(-rows // len(values)), 1)[:rows], None
    if not stored.block:
        return (torch.randn(shape, generator=generator) * columns**-0.5).to(stored.dtype), None
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if form == "fp8":
        codes[codes & 127 == 127] = 0
    scales_shape = stored.scales_shape(rows, columns)
    assert scales_shape is not None
    center = 127 - round(math.log2(columns) / 2 + CODE_BITS[form])
    scales = torch.randint(center - 1, center + 2, scales_shape, dtype=torch.uint8, generator=generator)
    return codes.view(stored.dtype), scales.view(SCALE_DTYPE)


def placed(codes: Tensor, skip: int) -> Tensor:
    """Returns a copy of the codes that begins `skip` bytes after the beginning of a cache line."""
    space = torch.empty(codes.nbytes + 2 * CACHE_LINE, dtype=torch.uint8)
    first = -space.data_ptr() % CACHE_LINE + skip
    return space[first : first + codes.nbytes].view(codes.dtype).view(codes.shape).copy_(codes)
