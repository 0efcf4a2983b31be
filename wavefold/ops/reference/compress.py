"""Compression: a block of tokens becomes one entry, by a softmax over its rows in each channel. Report section 2.3.

plain              rows of block i                          entry i = sum_s softmax_s(score) * kv
overlapped         rows of block i - 1, first half of the channels, and of block i, second half
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.flops import counted, values


@counted("pooling", lambda kv, *_: values(kv, 7))
def compress_blocks(kv: Tensor, score: Tensor, ratio: int, overlap: bool, has_previous: bool) -> Tensor:
    """kv, score [blocks * ratio, width] float32 -> entries [num_entries, width] (overlap: [num_entries, width / 2]).

    With `overlap` and `has_previous`, the rows begin one block before that of the first entry. Without `has_previous`,
    the first entry is the first of its sequence and has no previous block. The positional bias is already in `score`.
    """
    kv, score = kv.unflatten(0, (-1, ratio)), score.unflatten(0, (-1, ratio))
    if overlap:
        kv = _beside_previous(kv, 0.0, has_previous)
        score = _beside_previous(score, -torch.inf, has_previous)
    return (kv * score.softmax(dim=1)).sum(dim=1)


def _beside_previous(rows: Tensor, nothing: float, has_previous: bool) -> Tensor:
    """[blocks, r, 2 D] -> [entries, 2 r, D]: the previous block's first half over this block's second half."""
    previous, current = rows.chunk(2, dim=-1)
    if has_previous:
        return torch.cat((previous[:-1], current[1:]), dim=1)
    return torch.cat((torch.cat((torch.full_like(previous[:1], nothing), previous[:-1])), current), dim=1)
