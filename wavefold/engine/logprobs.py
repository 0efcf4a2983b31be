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
    values = logits.detach().cpu().double().log_softmax(-1)
    numbers = torch.tensor(list(ids))[:, None]
    came = values.gather(-1, numbers)
    before = (values > came) | ((values == came) & (torch.arange(values.shape[-1]) < numbers))
    rows = zip(ids, came[:, 0].tolist(), before.sum(-1).tolist(), _most_likely(values, num_best), strict=True)
    return [TokenLogprob(*row) for row in rows]


def _most_likely(values: Tensor, count: int) -> list[tuple[tuple[int, float], ...]]:
    """values [n, vocab] -> (id, value) of the `count` largest in each row, in order, lower ids first where equal."""
    if count == 0:
        return [()] * len(values)
    best = []
    for row, least in zip(values, values.topk(min(count, values.shape[-1])).values[:, -1], strict=True):
        ids = (row >= least).nonzero()[:, 0]
        order = ids[row[ids].argsort(descending=True, stable=True)][:count]
        best.append(tuple(zip(order.tolist(), row[order].tolist(), strict=True)))
    return best


def nats_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits [n, vocab], tokens int64 [n] -> minus the log probabilities of the tokens, float64 [n]."""
    return -logits.double().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """logits of two models [n, vocab] -> KL(reference || logits) in nats, float64 [n]."""
    p, q = (values.double().log_softmax(-1) for values in (reference, logits))
    return (p.exp() * (p - q)).sum(-1)
