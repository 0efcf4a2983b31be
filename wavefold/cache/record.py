"""How one cached row is stored: the record type is a parameter of the pool, not of the code that reads it.

A record encodes rows [..., dim] of activations into a fixed number of bytes and back. Plain ones keep a dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """Rows kept as they are, in `dtype`: lossless for activations of that dtype."""

    dtype: torch.dtype

    def num_bytes(self, dim: int) -> int:
        """Bytes of a row of `dim` values."""
        return dim * self.dtype.itemsize

    def empty(self, *shape: int, device: torch.device) -> Tensor:
        """Storage for rows of shape[-1] values. Its content is not defined."""
        return torch.empty(shape, dtype=self.dtype, device=device)

    def encode(self, rows: Tensor) -> Tensor:
        """Activations [..., dim] as they are stored."""
        return rows.to(self.dtype)

    def decode(self, stored: Tensor) -> Tensor:
        """What is stored, as activations [..., dim]."""
        return stored

    def poison(self, stored: Tensor) -> None:
        """Overwrite in place with what no reader can mistake for data."""
        stored.fill_(torch.nan)


def record_for(dtype: torch.dtype) -> Record:
    """The plain record that keeps activations of `dtype` unchanged."""
    return Record(dtype)
