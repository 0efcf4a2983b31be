"""The entries that a layer's pass attended to for one query, by the function that chose them there.

The kernels choose by `wf_index`, plain torch by `Indexer.select`. Where a query sees no more entries than the indexer
keeps, exact arithmetic attends to all of them without choosing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import PagedView
from wavefold.model.batch import num_visible
from wavefold.model.indexer import Indexer
from wavefold.ops import Arithmetic, native

SCORE_BLOCK = 4096
"""Entries scored at a time."""


def chosen_entries(
    indexer: Indexer, q: Tensor, weights: Tensor, view: PagedView, arithmetic: Arithmetic, by_kernels: bool
) -> Tensor:  # fmt: skip
    """q [1, heads, dim] and weights [1, heads] of the view's one token -> entries int64 [k].

    `by_kernels`: the pass ran in the CPU kernels.
    """
    position = view.start
    visible = num_visible(position, indexer.ratio)
    if not by_kernels:
        row = indexer.select(q, weights, torch.tensor([visible], device=q.device), view, arithmetic)[0]
    elif arithmetic.released or ops.current().batch_invariant or visible > indexer.topk:
        keys = view.rows(*indexer.keys)
        numbers = position, indexer.ratio, indexer.topk
        row = native.index_select(q, weights, keys, *numbers, arithmetic.rounds_index)[0].long()
    else:
        row = torch.arange(visible)
    return row[row >= 0]


def scores_of(
    indexer: Indexer, q: Tensor, weights: Tensor, entries: Tensor, view: PagedView, arithmetic: Arithmetic
) -> Tensor:  # fmt: skip
    """Returns the index scores of `entries` int64 [k] for the view's one token: float32 [k]."""
    parts = [
        ops.index_scores(q, weights, view.gather(*indexer.keys, part[None])[0], arithmetic)[0]
        for part in entries.split(SCORE_BLOCK)
    ]
    return torch.cat(parts).float() if parts else entries.new_empty(0, dtype=torch.float32)
