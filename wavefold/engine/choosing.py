"""Chooses tokens for rows of different requests at once. A row depends on its request alone, not on the rows beside it.

logits -> allowed first ids -> penalties and bias -> filters -> the number of (seed, position, index) -> token
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.engine.adjust import adjusted
from wavefold.engine.generate import only
from wavefold.engine.sampler import Filters, choose, usable
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.uniform import uniform


class Row(NamedTuple):
    """How the token after `prompt` and `output` is chosen. `number`: of the answer, among those to the prompt.

    `first_ids`: the ids among which the first token of an answer is chosen (None: all).
    """

    sampling: ResolvedSampling
    prompt: Sequence[int]
    output: Sequence[int]
    first_ids: Collection[int] | None = None
    number: int = 0


def next_tokens(logits: Tensor, rows: Sequence[Row]) -> list[int | None]:
    """logits [n, vocab] -> the token of each row, None for a row that is NaN or infinite."""
    logits = _prepared(logits.detach().float().cpu(), rows)
    numbered = usable(logits).nonzero()[:, 0].tolist()
    tokens: list[int | None] = [None] * len(rows)
    if not numbered:
        return tokens
    chosen = [rows[number] for number in numbered]
    filters = Filters.of([row.sampling.filters for row in chosen])
    numbers = torch.zeros(len(chosen), dtype=torch.float64)
    if bool(filters.temperature.any()):  # the most likely token needs no number
        numbers = uniform(
            torch.tensor([row.sampling.seed for row in chosen]),
            torch.tensor([len(row.prompt) + len(row.output) for row in chosen]),
            torch.tensor([row.number for row in chosen]),
        )
    ids = choose(logits if len(numbered) == len(rows) else logits[numbered], filters, numbers)
    for number, token in zip(numbered, ids.tolist(), strict=True):
        tokens[number] = token
    return tokens


def _prepared(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Returns the logits from which tokens are drawn: with first ids, penalties and biases."""
    first = [number for number, row in enumerate(rows) if row.first_ids is not None and not row.output]
    changed = [number for number, row in enumerate(rows) if not row.sampling.adjustments.change_nothing]
    if first or changed:
        logits = logits.clone()
    for number in first:
        logits[number : number + 1] = only(logits[number : number + 1], rows[number].first_ids or ())
    if changed:
        parts = [rows[number] for number in changed]
        logits[changed] = adjusted(
            logits[changed], [row.sampling.adjustments for row in parts], [row.prompt for row in parts],
            [row.output for row in parts],
        )  # fmt: skip
    return logits
