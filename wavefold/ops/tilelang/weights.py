"""FP4 weights of experts as the kernels read them: the official bytes and layout, one expert after another.

A kernel decodes e2m1 codes to e4m3 relative to the largest scale of a row's 128 values. With 2^6 times that scale for
the largest code, 6 becomes 384, and 0.5 is exact down to 2^-14 of it. So scales of 128 values may differ by 14 powers
of two at most. The official converter keeps them closer. `stack` checks it, since the kernel flushes smaller values to
zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops.tilelang.tasks import BLOCK

MOST_APART = 14
ALIGNMENT = 16
"""Alignment in bytes of every address that a kernel gets."""


def stack(weights: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """FP4 weights [out, in / 2] of several experts and their e8m0 scales [out, in / 32] -> codes [experts, out, in / 2]
    uint8 and scales [experts, out, in / 128] int32, four to a word.

    Raises ValueError for other shapes than multiples of 128, and for scales too far apart to be exact.
    """
    codes = torch.stack([code.contiguous().view(torch.uint8) for code, _ in weights])
    scales = torch.stack([quant.e8m0.as_bytes(scale).contiguous() for _, scale in weights])
    _, out, packed = codes.shape
    if out % BLOCK or 2 * packed % BLOCK:
        raise ValueError(f"a weight of {out} x {2 * packed} is not allowed; expected multiples of {BLOCK}")
    if scales.shape[1:] != (out, packed // 16):
        raise ValueError(f"scales of shape {tuple(scales.shape[1:])}; expected {(out, packed // 16)}")
    used = (codes.view(*codes.shape[:2], -1, 16) & 0x77).bool().any(-1)  # a block of zeros may have any scale
    exponents = scales.int().view(*scales.shape[:2], -1, 4)
    used = used.view(exponents.shape)
    lowest = exponents.where(used, 255).amin(-1)
    spread = int((exponents.amax(-1) - lowest).max()) if codes.numel() else 0
    if spread > MOST_APART:
        raise ValueError(
            f"scales of 128 weights of a row are up to 2^{spread} apart; expected at most 2^{MOST_APART}, which FP8 "
            "holds exactly; the reference computes these"
        )
    return codes, scales.view(torch.int32)


def check_tensor(name: str, x: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError unless x has this type and shape (None: any size), is contiguous and aligned."""
    if x.dtype != dtype:
        raise ValueError(f"{name} is {x.dtype}; expected {dtype}")
    if len(x.shape) != len(shape) or any(b is not None and a != b for a, b in zip(x.shape, shape, strict=True)):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({expected})")
    if not x.is_contiguous():
        raise ValueError(f"{name} is not contiguous; expected rows one after another")
    if x.data_ptr() % ALIGNMENT:
        raise ValueError(f"{name} is at {x.data_ptr():#x}; expected a multiple of {ALIGNMENT} bytes")
