"""A stored matrix: its format, its size, and its bytes, never repacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import dequantize
from .format import Format, decoded_format, format_of
from .packed import decode_packed

DECODED = torch.empty(0)
"""The `scale` of a module with decoded values of a quantized weight: the scales are applied already."""


class Weight(NamedTuple):
    """A stored matrix [out, in]."""

    format: Format
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor | None

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor | None = None, packed: Format | None = None) -> Weight:
        """Returns the weight of a module's `weight` and `scale`; `packed` is the format of blocks that codes are in.

        Raises ValueError for codes of no format's dtype.
        """
        form = packed or format_of(codes.dtype)
        if scales is DECODED:
            form, scales = decoded_format(codes.dtype), None
        return cls(form, (codes.shape[0], form.num_columns(codes.shape[-1])), codes, scales)

    @property
    def plain(self) -> Weight:
        """The weight itself, or a decoded one's values as a weight that was never quantized."""
        return Weight.of(self.codes) if self.format == decoded_format(self.codes.dtype) else self

    @property
    def packed(self) -> Format | None:
        """The format, where the codes' dtype does not tell it."""
        return self.format if self.format.is_packed else None

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Returns the values [out, in] in `dtype`. Plain codes of that dtype are returned without a copy."""
        if self.format.is_packed:
            return decode_packed(self.codes, self.format, dtype)
        return dequantize(self.codes, self.scales, dtype)

    def rows(self, choice: slice | Tensor) -> Weight:
        """Returns some rows of a matrix that has no scales beside its codes."""
        assert self.scales is None
        codes = self.codes[choice]
        return self._replace(shape=(len(codes), self.shape[1]), codes=codes)

    def map(self, function: Callable[[Tensor], Tensor]) -> Weight:
        """Returns the weight with `function` applied to codes and scales."""
        scales = None if self.scales is None else function(self.scales)
        return Weight.of(function(self.codes), scales, self.packed)
