"""The formats of stored matrices: codes, and scales beside them or among them.

fp4    int8 [out, in/2], two e2m1 codes a byte    a scale for each row and 32 columns
fp8    float8_e4m3fn [out, in]                    a scale for each 128 x 128
bf16   bfloat16 [out, in]                         none
fp32   float32 [out, in]                          none
f16    float16 [out, in]                          none; GGUF files alone hold it
the rest: GGUF's, uint8 [out, bytes of a row]     in the rows' blocks, beside the codes (`packed.py`)

Two further formats are in no file: fp64, and the decoded values of a quantized weight.

A new format needs a row in `FORMATS`, whose order is the kernels' (WF_FP4 ... in csrc/wavefold.h), decoding in
`blocks.py` or `packed.py`, and in C a case of `value_at` and `scale_at` (kernels.h) and of the rows (rows_simd.h). The
official formats, and f16, are known by the dtype of their codes; who holds another one says which.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from wavefold.gguf.types import TYPES

from .blocks import FP4_BLOCK, FP8_BLOCK

Shape = tuple[int, int]


class Format(NamedTuple):
    """The format of a stored matrix."""

    name: str
    dtype: torch.dtype
    """The dtype of codes."""
    group: tuple[int, int] = (1, 1)
    """Values that lie together, and their number of codes: of bytes, where codes are bytes."""
    block: Shape | None = None
    """Rows and columns that share a scale; None where there are no scales."""
    is_quantized: bool = False
    """True if released arithmetic rounds the other operand of a product to FP8."""

    @property
    def is_packed(self) -> bool:
        """True if codes are blocks of bytes, which hold scales too."""
        return self.dtype == torch.uint8

    def codes_shape(self, rows: int, columns: int) -> Shape:
        values, codes = self.group
        return rows, columns // values * codes

    def num_columns(self, num_codes: int) -> int:
        """Returns the number of values in a row of so many codes."""
        values, codes = self.group
        return num_codes // codes * values

    def scales_shape(self, rows: int, columns: int) -> Shape | None:
        """Returns the shape of the scales, or None. A partial block at an edge has a scale."""
        return None if self.block is None else (-(-rows // self.block[0]), -(-columns // self.block[1]))


SCALE_DTYPE = torch.float8_e8m0fnu
"""The dtype of scales: one byte, a power of two."""


def _blocks(name: str, is_quantized: bool = False) -> Format:
    """Returns the format of one of GGUF's types."""
    return Format(name, torch.uint8, (TYPES[name].block, TYPES[name].block_bytes), None, is_quantized)


FORMATS = {
    form.name: form
    for form in (
        Format("fp4", torch.int8, (2, 1), (1, FP4_BLOCK), True),
        Format("fp8", torch.float8_e4m3fn, (1, 1), (FP8_BLOCK, FP8_BLOCK), True),
        Format("bf16", torch.bfloat16),
        Format("fp32", torch.float32),
        _blocks("q8_0"),
        _blocks("q6_k"),
        _blocks("q5_k"),
        _blocks("q4_k"),
        _blocks("q3_k"),
        _blocks("q2_k"),
        _blocks("iq4_xs"),
        _blocks("iq3_xxs"),
        _blocks("iq2_xs"),
        _blocks("iq2_xxs"),
        _blocks("mxfp4", True),  # FP4's values: released arithmetic computes as with FP4
        Format("f16", torch.float16),
    )
}
"""Formats by name, in the order of the CPU kernels' numbers: the official ones, then GGUF's."""

FP64 = Format("fp64", torch.float64)

_BY_DTYPE = {form.dtype: form for form in (*FORMATS.values(), FP64)} | {torch.uint8: FORMATS["fp4"]}
"""uint8 without further word is FP4: official files name its bytes so, too."""

STORED_DTYPES = (torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bfloat16, torch.float32)
"""The dtypes of weights in files."""


@functools.cache
def decoded_format(dtype: torch.dtype) -> Format:
    """Returns the format of a quantized weight's values in `dtype`, after the scales are applied."""
    return Format("decoded", dtype, is_quantized=True)


def format_of(dtype: torch.dtype) -> Format:
    """Returns the format of a weight whose codes have this dtype. Raises ValueError for a dtype of no format."""
    if (form := _BY_DTYPE.get(dtype)) is None:
        raise ValueError(f"a weight of {dtype}; expected one of {', '.join(map(str, _BY_DTYPE))}")
    return form
