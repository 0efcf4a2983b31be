"""A stored matrix: its format, its size, and its bytes, never repacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import dequantize
from .format import Format, decoded_format, format_of

DECODED = torch.empty(0)
"""The `scale` of a module with decoded values of a quantized weight: the scales are applied already."""


class Weight(NamedTuple):
    """A stored matrix [out, in]."""

    format: Format
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor | None

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor | None = None) -> Weight:
        """Returns the weight of a module's `weight` and `scale`. Raises ValueError for codes of no format's dtype."""
        form = format_of(codes.dtype)
        if scales is DECODED:
            form, scales = decoded_format(codes.dtype), None
        return cls(form, (codes.shape[0], codes.shape[-1] * form.values_per_code), codes, scales)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """Returns the values [out, in] in `dtype`. Plain codes of that dtype are returned without a copy."""
        return dequantize(self.codes, self.scales, dtype)

    def map(self, function: Callable[[Tensor], Tensor]) -> Weight:
        """Returns the weight with `function` applied to codes and scales."""
        return Weight.of(function(self.codes), None if self.scales is None else function(self.scales))
