"""The formats in which matrices are stored: which codes, and which scales beside them.

fp4    int8 [out, in/2], two e2m1 codes a byte    a scale for each row and 32 columns
fp8    float8_e4m3fn [out, in]                    a scale for each 128 x 128
bf16   bfloat16 [out, in]                         none
fp32   float32 [out, in]                          none
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .blocks import FP4_BLOCK, FP8_BLOCK

Shape = tuple[int, int]


class Format(NamedTuple):
    """A way to store a matrix."""

    name: str
    dtype: torch.dtype
    """Of the codes."""
    values_per_code: int = 1
    block: Shape | None = None
    """Rows and columns that share a scale; None where there are no scales."""

    def codes_shape(self, rows: int, columns: int) -> Shape:
        return rows, columns // self.values_per_code

    def scales_shape(self, rows: int, columns: int) -> Shape | None:
        """Partial blocks at the edges have scales of their own."""
        return None if self.block is None else (-(-rows // self.block[0]), -(-columns // self.block[1]))


SCALE_DTYPE = torch.float8_e8m0fnu
"""Of scales: one byte, a power of two."""

FORMATS = {
    form.name: form
    for form in (
        Format("fp4", torch.int8, 2, (1, FP4_BLOCK)),
        Format("fp8", torch.float8_e4m3fn, 1, (FP8_BLOCK, FP8_BLOCK)),
        Format("bf16", torch.bfloat16),
        Format("fp32", torch.float32),
    )
}
"""By name, in the order of the CPU kernels' numbers."""
