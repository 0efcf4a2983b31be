"""GGUF's IQ formats: blocks of 256 values, whose codes name vectors of a grid (`i_grids.py`) or values of a table.

    format    bytes   value                         layout of a block
    iq4_xs     136    d * (s - 32) * table[q]       d | high bits of s [2] | low bits of s [4] | q 4 bits [128]
    iq3_xxs     98    d * (s + 1/2) / 2 * vectors   d | codes [64] | 28 bits of signs and 4 of s for 32 values [32]
    iq2_xs      74    d * (s + 1/2) / 4 * vectors   d | 9 bits of code and 7 of signs for 8 values [64] | s 4 bits [8]
    iq2_xxs     66    d * (s + 1/2) / 4 * vectors   d | for 32 values: 4 codes, 28 bits of signs and 4 of s [64]

Functions take bytes [n, bytes of a block] and return float32 [n, 256], with ggml's order of products. Source: as in
`k_quants.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .i_grids import grid, signs
from .k_quants import copied, fields, float16

TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The values of iq4_xs's codes."""


def decode_iq4_xs(blocks: Tensor) -> Tensor:
    low = fields(blocks[:, 4:8], 4, 4, 1).flatten(1)
    high = fields(blocks[:, 2:4], 2, 2, 1).flatten(1)
    scale = float16(blocks, 0) * ((low | high << 4).to(torch.int8) - 32).float()
    codes = fields(blocks[:, 8:], 4, 4, 16).reshape(-1, 8, 32)
    values = torch.tensor(TABLE, dtype=torch.float32, device=blocks.device)[codes.long()]
    return (scale[..., None] * values).flatten(1)


def decode_iq3_xxs(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 66:], torch.int32)
    vectors = grid("iq3_xxs", blocks.device)[blocks[:, 2:66].long()].reshape(-1, 8, 4, 8)
    return _signed(float16(blocks, 0) * (words >> 28).float().add(0.5) * 0.5, vectors, _sign_codes(words))


def decode_iq2_xs(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 2:66], torch.int16)
    scale = float16(blocks, 0) * fields(blocks[:, 66:], 4, 4, 1).flatten(1).float().add(0.5) * 0.25
    vectors = grid("iq2_xs", blocks.device)[words & 511].reshape(-1, 16, 2, 8)
    return _signed(scale, vectors, (words >> 9).reshape(-1, 16, 2))


def decode_iq2_xxs(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 2:], torch.int32)[:, 1::2]
    codes = blocks[:, 2:].reshape(-1, 8, 8)[..., :4]
    vectors = grid("iq2_xxs", blocks.device)[codes.long()]
    return _signed(float16(blocks, 0) * (words >> 28).float().add(0.5) * 0.25, vectors, _sign_codes(words))


def _words(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns little-endian words of 16 or 32 bits, without sign, as int64."""
    return copied(codes).view(dtype).long() & (1 << 8 * dtype.itemsize) - 1


def _sign_codes(words: Tensor) -> Tensor:
    """Returns the four sign codes of 7 bits in the low bits of each word: [n, words, 4]."""
    return words[..., None] >> torch.arange(0, 28, 7, device=words.device) & 127


def _signed(scale: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
    """Returns scale [n, parts] times vectors [n, parts, m, 8] with the signs of codes [n, parts, m]: [n, 256]."""
    return (scale[..., None, None] * vectors * signs(scale.device)[codes]).flatten(1)
