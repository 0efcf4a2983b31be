"""Log probabilities of tokens: of the one that came, and of the most likely ones.

They are the model's: of the logits as they are, before penalties, bias, temperature and filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenLogprob(NamedTuple):
    """`rank` 0: the most likely token. `best`: (id, log probability) of the most likely tokens, in order."""

    id: int
    logprob: float
    rank: int
    best: tuple[tuple[int, float], ...]


def logprobs(logits: Tensor, ids: Sequence[int], num_best: int) -> list[TokenLogprob]:
    """logits [n, vocab] and the n ids that came -> their log probabilities, natural, with `num_best` others each.

    For a prompt, row i of its logits belongs to token i + 1. Of equal tokens the lower id comes first. Computed in
    float64.
    """
    values, order = logits.detach().cpu().double().log_softmax(-1).sort(descending=True, stable=True)
    rows = torch.arange(len(logits))
    ranks = (order == torch.tensor(list(ids))[:, None]).int().argmax(-1)
    best = zip(order[:, :num_best].tolist(), values[:, :num_best].tolist(), strict=True)
    came = zip(ids, values[rows, ranks].tolist(), ranks.tolist(), best, strict=True)
    return [TokenLogprob(id, value, rank, tuple(zip(*pair, strict=True))) for id, value, rank, pair in came]
