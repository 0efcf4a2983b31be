"""Picks the next token of each row: temperature, top-k, top-p (nucleus), min-p, then the inverse of the cumulative
distribution.

    logits [n, vocab] -> temperature -> softmax -> top-k -> top-p -> min-p -> one uniform number for each row -> ids [n]

Each filter works on what the one before it kept, as in transformers' order of processors. Penalties and biases come
before (adjust.py). Each row takes one uniform number, whatever its distribution: a sequence's tokens depend on its
seed and its logits. The distribution is added up by token id, or, in a row with a filter, from the most likely token
on: a kernel needs to sort the tokens that it keeps, and no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.engine.arguments import Rule, number, whole

DAMAGED = "the logits are NaN or infinite; expected numbers (are the model's weights damaged?)"

FILTER_RULES: Mapping[str, Rule] = {
    "temperature": number("from 0 (the most likely token) on", lambda x: 0 <= x < math.inf),
    "top_p": number("above 0, at most 1", lambda x: 0 < x <= 1),
    "top_k": whole(0, note=" (all tokens)"),
    "min_p": number("from 0 to 1", lambda x: 0 <= x <= 1),
}


class Filters(NamedTuple):
    """How each row is drawn, tensors [n]. `temperature` 0: the largest logit, the first of equal ones.

    `top_k` int64: as many of the most likely tokens (0: all), lower ids first where they are equal. `top_p`: the most
    likely tokens, as few as have that share of the probability. `min_p`: tokens of at least that share of the most
    likely token's probability. All but `top_k` float64.
    """

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor

    @classmethod
    def same(cls, num_rows: int, temperature: float, top_p: float, top_k: int, min_p: float) -> Filters:
        """Returns the filters of `num_rows` rows that are drawn alike."""
        return cls.of([(temperature, top_p, top_k, min_p)] * num_rows)

    @classmethod
    def of(cls, rows: list[tuple[float, float, int, float]]) -> Filters:
        """Returns the filters of rows of (temperature, top_p, top_k, min_p)."""
        temperature, top_p, top_k, min_p = zip(*rows, strict=True)
        float64 = torch.float64
        return cls(
            torch.tensor(temperature, dtype=float64), torch.tensor(top_p, dtype=float64),
            torch.tensor(top_k, dtype=torch.int64), torch.tensor(min_p, dtype=float64),
        )  # fmt: skip

    @property
    def active(self) -> Tensor:
        """bool [n]: True for rows with a filter, that is, from which tokens may be dropped."""
        return (self.top_p < 1) | (self.top_k > 0) | (self.min_p > 0)


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """logits [..., vocab] -> ids [...] int64, on the CPU, where `generator` lives (None: torch's default one).

    `temperature` 0 takes the largest logit, the first of equal ones. See `Filters`. Logits are float32, probabilities
    float64. Raises ValueError for parameters out of range and for logits that are NaN or +inf; -inf is a token that
    must not be chosen.
    """
    check_sampling(temperature, top_p, top_k, min_p)
    shape, rows = logits.shape[:-1], logits.reshape(-1, logits.shape[-1])
    numbers = torch.zeros(shape) if temperature == 0 else torch.rand(shape, dtype=torch.float64, generator=generator)
    return choose(rows, Filters.same(len(rows), temperature, top_p, top_k, min_p), numbers.flatten()).reshape(shape)


def choose(logits: Tensor, filters: Filters, numbers: Tensor) -> Tensor:
    """logits [n, vocab], numbers float64 [n] in [0, 1) -> ids int64 [n] on the CPU. A row depends on its own alone.

    Raises ValueError for logits that are NaN or +inf.
    """
    logits = _checked(logits)
    ids = logits.argmax(-1)
    drawn = filters.temperature > 0
    plain, filtered = drawn & ~filters.active, drawn & filters.active
    if bool(plain.any()):
        ids[plain] = _point(_softmax(logits[plain], filters.temperature[plain]), numbers[plain])
    if bool(filtered.any()):
        part = Filters(*(value[filtered] for value in filters))
        kept, order = _kept(_softmax(logits[filtered], part.temperature), part)
        ids[filtered] = order.gather(-1, _point(kept, numbers[filtered])[:, None])[:, 0]
    return ids


def distribution(logits: Tensor, filters: Filters) -> Tensor:
    """logits [n, vocab] -> float64 [n, vocab]: the probabilities by which `choose` draws, exactly zero if dropped."""
    logits = _checked(logits)
    most_likely = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    drawn = filters.temperature > 0
    kept, order = _kept(_softmax(logits, filters.temperature.where(drawn, torch.ones(()).double())), filters)
    probabilities = torch.zeros_like(kept).scatter(-1, order, kept)
    return torch.where(drawn[:, None], probabilities / probabilities.sum(-1, keepdim=True), most_likely)


def check_sampling(temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0) -> None:
    """Raises ValueError for a value that `FILTER_RULES` does not allow."""
    for name, value in (("temperature", temperature), ("top_p", top_p), ("top_k", top_k), ("min_p", min_p)):
        FILTER_RULES[name].used(name, value)


def usable(logits: Tensor) -> Tensor:
    """logits [n, vocab] -> bool [n]: False for a row with NaN or +inf, and for one that is -inf throughout."""
    return logits.amax(-1).isfinite()


def _checked(logits: Tensor) -> Tensor:
    """Returns float32 logits on the CPU."""
    logits = logits.detach().float().cpu()
    if not bool(usable(logits).all()):
        raise ValueError(DAMAGED)
    return logits


def _softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    """Returns probabilities, float64 [n, vocab]."""
    below = logits - logits.amax(-1, keepdim=True)
    return (below.double() / temperature[:, None]).softmax(-1)  # 0 / 1e-300 is 0 in float64 only


def _kept(probabilities: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    """Returns the probabilities from the largest on, 0 where a filter drops the token, and their ids: [n, vocab]."""
    top_p, top_k, min_p = filters.top_p[:, None], filters.top_k[:, None], filters.min_p[:, None]
    ordered, order = probabilities.sort(descending=True, stable=True)
    ordered = ordered.masked_fill((top_k > 0) & (torch.arange(ordered.shape[-1]) >= top_k), 0)
    share = top_p.where(top_k == 0, top_p * ordered.sum(-1, keepdim=True))
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill((top_p < 1) & (before >= share) & (before > 0), 0)  # share may underflow to 0
    return ordered.masked_fill(ordered < min_p * ordered[:, :1], 0), order


def _point(weights: Tensor, numbers: Tensor) -> Tensor:
    """weights [n, m] float64, not negative -> index [n] into each row, in proportion to the weights."""
    total = weights.cumsum(-1)
    return torch.searchsorted(total, numbers[:, None] * total[:, -1:], right=True)[:, 0]
