"""GGUF's K formats: blocks of 256 values, whose parts have scales of 4 to 8 bits on one or two float16 numbers.

    format   bytes   parts      value                          layout of a block
    q2_k       84    16 of 16   d * s * q - dmin * m           s and m 4 bits each [16] | q 2 bits [64] | d | dmin
    q3_k      110    16 of 16   d * (s - 32) * (q - 4)         high bits of q [32] | low two [64] | s 6 bits [12] | d
    q4_k      144     8 of 32   d * s * q - dmin * m           d | dmin | s and m 6 bits each [12] | q 4 bits [128]
    q5_k      176     8 of 32   d * s * q - dmin * m           d | dmin | s and m [12] | high bits of q [32] | low [128]
    q6_k      210    16 of 16   d * s * (q - 32), s signed     low bits of q [128] | high two [64] | s [16] | d

Functions take bytes [n, bytes of a block] and return float32 [n, 256], with ggml's order of products: its values to
the bit. Source: ggml's documentation of its blocks (ggml-common.h), read as a format.
"""

from __future__ import annotations

import torch
from torch import Tensor


def float16(blocks: Tensor, at: int) -> Tensor:
    """Returns the float16 number at byte `at` of each block: float32 [n, 1]."""
    return copied(blocks[:, at : at + 2]).view(torch.float16).float()


def copied(codes: Tensor) -> Tensor:
    """Returns a copy of bytes, which begins where numbers of any size may."""
    return codes.clone(memory_format=torch.contiguous_format)


def fields(codes: Tensor, width: int, step: int, run: int) -> Tensor:
    """Splits bytes [n, m] into fields of `width` bits, `step` bits apart, of each run of `run` bytes in turn.

    Result uint8 [n, m / run, 8 / step, run]: the lowest fields of a run come first.
    """
    shifts = torch.arange(0, 8, step, dtype=torch.uint8, device=codes.device)[:, None]
    return codes.reshape(len(codes), -1, 1, run) >> shifts & (1 << width) - 1


def decode_q2_k(blocks: Tensor) -> Tensor:
    scales, codes = blocks[:, :16], fields(blocks[:, 16:80], 2, 2, 32).reshape(-1, 16, 16).float()
    scale = (float16(blocks, 80) * (scales & 15).float())[..., None]
    low = (float16(blocks, 82) * (scales >> 4).float())[..., None]
    return (scale * codes - low).flatten(1)


def decode_q3_k(blocks: Tensor) -> Tensor:
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = fields(low, 4, 4, 8).flatten(1) | fields(high, 2, 2, 4).flatten(1) << 4
    scale = float16(blocks, 108) * (scales.to(torch.int8) - 32).float()
    codes = fields(blocks[:, 32:96], 2, 2, 32).reshape(-1, 16, 16).to(torch.int8)
    is_high = fields(blocks[:, :32], 1, 1, 32).reshape(-1, 16, 16).to(torch.int8)
    return (scale[..., None] * (codes - 4 * (1 - is_high)).float()).flatten(1)


def decode_q4_k(blocks: Tensor) -> Tensor:
    return _with_minima(blocks, fields(blocks[:, 16:], 4, 4, 32).reshape(-1, 8, 32))


def decode_q5_k(blocks: Tensor) -> Tensor:
    high = fields(blocks[:, 16:48], 1, 1, 32).reshape(-1, 8, 32)
    return _with_minima(blocks, fields(blocks[:, 48:], 4, 4, 32).reshape(-1, 8, 32) | high << 4)


def decode_q6_k(blocks: Tensor) -> Tensor:
    scale = float16(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    low = fields(blocks[:, :128], 4, 4, 64).reshape(-1, 8, 32)
    high = fields(blocks[:, 128:192], 2, 2, 32).reshape(-1, 8, 32)
    codes = (low | high << 4).to(torch.int8) - 32
    return (scale[..., None] * codes.reshape(-1, 16, 16).float()).flatten(1)


def _with_minima(blocks: Tensor, codes: Tensor) -> Tensor:
    """Values of q4_k and q5_k: codes uint8 [n, 8, 32]. Of 12 bytes of scales, the last 4 hold the later ones' rest."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 63, rest & 15 | first >> 2 & 48), 1)
    minima = torch.cat((second & 63, rest >> 4 | second >> 2 & 48), 1)
    scale = (float16(blocks, 0) * scales.float())[..., None]
    low = (float16(blocks, 2) * minima.float())[..., None]
    return (scale * codes.float() - low).flatten(1)
