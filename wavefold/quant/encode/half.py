"""Arithmetic of scales that a file holds in float16."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_HALF = 65504.0


def half(scale: Tensor) -> Tensor:
    """Returns float32 values as float16 holds them, cut to its finite range."""
    return scale.clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def inverse(scale: Tensor) -> Tensor:
    """Returns 1 / scale, and 0 for 0."""
    return torch.where(scale == 0, 0.0, scale.reciprocal())


def half_bytes(scale: Tensor) -> Tensor:
    """Returns float16 values [n] as uint8 [n, 2], little-endian."""
    return scale.half().view(torch.uint8).view(-1, 2)
