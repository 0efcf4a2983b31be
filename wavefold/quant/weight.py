"""A stored matrix: its format, its size, and its bytes, never repacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import dequantize
from .format import Format, decoded_format, format_of

DECODED = torch.empty(0)
"""Stands in a module's `scale` beside decoded values of a quantized weight, whose scales have been applied."""


class Weight(NamedTuple):
    """A matrix [out, in] as it is stored."""

    format: Format
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor | None

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor | None = None) -> Weight:
        """The weight that a module's `weight` and `scale` are. Raises ValueError for codes of no format's dtype."""
        form = format_of(codes.dtype)
        if scales is DECODED:
            form, scales = decoded_format(codes.dtype), None
        return cls(form, (codes.shape[0], codes.shape[-1] * form.values_per_code), codes, scales)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """The values [out, in] in `dtype`: the codes themselves where they are plain and of that dtype."""
        return dequantize(self.codes, self.scales, dtype)

    def map(self, function: Callable[[Tensor], Tensor]) -> Weight:
        """The weight of `function` of codes and scales."""
        return Weight.of(function(self.codes), None if self.scales is None else function(self.scales))
