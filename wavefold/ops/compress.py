"""Compression of whole sequences into entries. Its meaning: `ops/reference/compress.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.flops import count
from wavefold.ops.linear import linear_wide, linears
from wavefold.ops.native import compress_grad
from wavefold.ops.reference.compress import compress_blocks
from wavefold.quant import Weight


def compress(
    h: Tensor,
    wkv: Weight,
    wgate: Weight,
    ape: Tensor,
    ratio: int,
    overlap: bool,
    lengths: Sequence[int],
    arithmetic: Arithmetic,
) -> Tensor:
    """h [n, hidden] of whole sequences of `lengths`, one after another -> entries [m, dim] in that order.

    wkv, wgate [width, hidden], ape [ratio, width]; width is dim, or 2 dim with `overlap`. Result in activation dtype.
    """
    width = wkv.shape[0]
    if not arithmetic.released and any(n >= ratio for n in lengths) and kernels_train(h, wkv.codes, wgate.codes, ape):
        count("pooling", 7 * len(h) * width)
        plain = [Weight.of(weight.decode(h.dtype)) for weight in (wkv, wgate)]
        kv, score = linears(h, plain, arithmetic)
        return compress_grad.compress_sequences(kv, score, ape, ratio, overlap, lengths)
    kv, score = linear_wide(h, wkv, arithmetic), linear_wide(h, wgate, arithmetic)
    entries = [h.new_empty(0, width // (2 if overlap else 1), dtype=arithmetic.dtype)]
    for rows, scores in zip(kv.split(list(lengths)), score.split(list(lengths)), strict=True):
        if whole := len(rows) // ratio * ratio:
            scores = scores[:whole] + ape.to(scores.dtype).repeat(whole // ratio, 1)
            entries.append(compress_blocks(rows[:whole], scores, ratio, overlap, False).to(arithmetic.dtype))
    return torch.cat(entries)
