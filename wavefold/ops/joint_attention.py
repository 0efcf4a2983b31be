"""Attention of whole sequences, for training. Its meaning: `ops/reference/joint_attention.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.native import joint_attention as native
from wavefold.ops.reference import joint_attention as reference


def attend_sequences(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int,
    lengths: Sequence[int], chosen: Sequence[Tensor | None] | None, mass: bool, arithmetic: Arithmetic,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """q [n, H, c], kv [n, c], entries [m, c] of sequences of `lengths`, one after another, sink [H] -> o [n, H, c].

    Also returns, for each sequence, the mass of the entries [length, length // ratio] float32, without gradient; unless
    `mass` is True it has no rows. `chosen`, bool of the same shapes: the entries that a token sees (None: all).
    """
    if (
        not arithmetic.released
        and q.shape[-1] % native.DIM_UNIT == 0
        and kernels_train(q, kv, entries, sink)
    ):  # fmt: skip
        return native.joint_attention(q, kv, entries, sink, window, ratio, lengths, chosen, mass)
    blocks = [length // ratio if ratio else 0 for length in lengths]
    outputs, masses = [], []
    parts = zip(q.split(list(lengths)), kv.split(list(lengths)), entries.split(blocks), strict=True)
    for i, (some_q, some_kv, some_entries) in enumerate(parts):
        seen = None if chosen is None else chosen[i]
        o, fell = reference.joint_attention(some_q, some_kv, some_entries, sink, window, ratio, seen, mass)
        outputs.append(o)
        masses.append(o.new_empty(0, blocks[i], dtype=arithmetic.accumulate) if fell is None else fell)
    return torch.cat(outputs), masses
