"""The indexer's queries and keys, and its choice for whole sequences. Their meaning: `ops/reference/index.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops import native
from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.flops import count
from wavefold.ops.native import hadamard
from wavefold.ops.reference.index import RunningTopK, index_scores
from wavefold.ops.reference.index import index_rotate as reference_rotate

SCORE_BLOCK = 512
"""Entries scored at a time: scores take queries x heads x SCORE_BLOCK values, whatever the context."""


def index_rotate(x: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Transforms index queries or keys [..., dim] before scoring. Released: Hadamard, FP4 in blocks of 32."""
    if not (arithmetic.rounds_index and hadamard.takes(x) and kernels_train(x)):
        return reference_rotate(x, arithmetic)
    count("hadamard", x.numel() * x.shape[-1].bit_length())
    count("quantize", 2 * x.numel())
    return hadamard.hadamard_fp4(x)


def choose_entries(q: Tensor, weights: Tensor, keys: Tensor, ratio: int, k: int, arithmetic: Arithmetic) -> Tensor:
    """q [n, heads, dim], weights [n, heads], keys [m, dim] of a whole sequence -> [n, <= k] entries, best first.

    Token t sees the first (t + 1) // ratio entries. -1 stands for no entry. Without gradients.
    """
    if q.dtype == weights.dtype == keys.dtype and q.shape[-1] % 2 == 0 and kernels_serve(q.detach(), keys.detach()):
        count("index", 2 * q.numel() * len(keys))
        count("index heads", 3 * q.shape[0] * q.shape[1] * len(keys))
        count("top-k", len(q) * len(keys))
        rows = native.RowSource("bf16", q.shape[-1], 0, keys.detach())
        return native.index_select(q.detach(), weights.detach(), rows, 0, ratio, k, arithmetic.rounds_index)
    visible = (torch.arange(len(q), device=q.device) + 1) // ratio
    best = RunningTopK(len(q), k, q.device)
    for first in range(0, len(keys), SCORE_BLOCK):
        best.add(index_scores(q, weights, keys[first : first + SCORE_BLOCK], arithmetic), first, visible)
    return best.finish()
