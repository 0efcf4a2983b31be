"""Picks the next token: temperature, then top-p (nucleus) sampling by the inverse of the cumulative distribution.

Each row takes one uniform number, whatever its distribution: a sequence's tokens depend on its seed and its logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """logits [..., vocab] -> ids [...] int64, on the CPU, where `generator` lives (None: torch's default one).

    `temperature` 0 takes the largest logit, the first of equal ones. `top_p` keeps the most likely tokens, as few as
    have that probability together. Logits are float32, probabilities float64. Raises ValueError for parameters out of
    range and for logits that are NaN or +inf; -inf is a token that must not be chosen.
    """
    check_sampling(temperature, top_p)
    logits = logits.detach().float().cpu()
    largest = logits.amax(-1, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise ValueError("the logits are NaN or infinite; expected numbers (are the model's weights damaged?)")
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = ((logits - largest).double() / temperature).softmax(-1)  # 0 / 1e-300 is 0 in float64 only
    if top_p == 1:
        return _draw(probabilities, generator)
    ordered, order = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0)
    return order.gather(-1, _draw(kept, generator)[..., None])[..., 0]


def check_sampling(temperature: float, top_p: float) -> None:
    """Raises ValueError unless 0 <= temperature and 0 < top_p <= 1."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature = {temperature} is not allowed; expected 0 (the most likely token) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p} is not allowed; expected a number above 0, at most 1")


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """weights [..., n] float64, not negative -> index [...] of each row, in proportion to the weights."""
    total = weights.cumsum(-1)
    point = torch.rand(total.shape[:-1], dtype=torch.float64, generator=generator)[..., None] * total[..., -1:]
    return torch.searchsorted(total, point, right=True)[..., 0]
