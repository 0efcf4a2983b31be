"""Chooses tokens for rows of different requests at once. A row depends on its request alone, not on the rows beside it.

logits -> allowed first ids -> penalties and bias -> filters -> the number of (seed, position, index) -> token
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavefold import ops
from wavefold.engine.adjust import adjusted
from wavefold.engine.generate import only
from wavefold.engine.sampler import Filters, choose, usable
from wavefold.engine.sampling import ResolvedSampling
from wavefold.engine.uniform import uniform


class Row(NamedTuple):
    """How the token after `prompt` and `output` is chosen. `number`: of the answer, among those to the prompt.

    `first_ids`: the ids among which the first token of an answer is chosen (None: all). `mask` int32
    [ceil(vocab / 32)]: bit i allows token i (None: all are allowed).
    """

    sampling: ResolvedSampling
    prompt: Sequence[int]
    output: Sequence[int]
    first_ids: Collection[int] | None = None
    number: int = 0
    mask: Tensor | None = None

    @property
    def position(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def allowed(self) -> Collection[int] | None:
        """The ids among which the token is chosen, or None for all. Ids beyond the vocabulary are ignored."""
        return None if self.output else self.first_ids


def next_tokens(logits: Tensor, rows: Sequence[Row], numbers: Sequence[int]) -> list[int | None]:
    """logits [n, vocab] -> the token of each row, None for one that is NaN or infinite. numbers[i]: of logits, row i's.

    The CPU kernels choose, else torch does.
    """
    if not rows:
        return []
    logits = logits.detach()
    if ops.kernels_choose(logits):
        chosen = ops.choose(logits.contiguous(), list(map(functools.partial(_choice, logits), rows, numbers)))
        return [token if token >= 0 else None for token in chosen]
    return by_torch(logits[numbers], rows)


def _choice(logits: Tensor, row: Row, number: int) -> ops.Choice:
    sampling, adjustments = row.sampling, row.sampling.adjustments
    bias = adjustments.logit_bias
    mask = row.mask if row.allowed is None else bits_of(row.allowed, logits.shape[-1])
    return ops.Choice.of(
        number, sampling.seed, row.position, row.number, sampling.filters, adjustments.penalties, row.prompt,
        row.output, (list(bias), list(bias.values())), mask,
    )  # fmt: skip


def bits_of(ids: Collection[int], vocab_size: int) -> Tensor:
    """Returns int32 [ceil(vocab_size / 32)] whose bit i says that id i is among them."""
    allowed = np.zeros(-(-vocab_size // 32) * 32, dtype=bool)
    allowed[[token for token in ids if token < vocab_size]] = True
    return torch.from_numpy(np.packbits(allowed, bitorder="little").view(np.int32))


def allowed_by(mask: Tensor | None, vocab_size: int) -> Tensor:
    """Returns bool [vocab_size]: the bits of a mask, True throughout for None."""
    if mask is None:
        return torch.ones(vocab_size, dtype=torch.bool)
    bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
    return torch.from_numpy(bits[:vocab_size].astype(bool))


def by_torch(logits: Tensor, rows: Sequence[Row]) -> list[int | None]:
    """logits [n, vocab] -> the token of each of n rows, None for one that is NaN or infinite."""
    logits = _prepared(logits.float().cpu(), rows)
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
            torch.tensor([row.position for row in chosen]),
            torch.tensor([row.number for row in chosen]),
        )
    ids = choose(logits if len(numbered) == len(rows) else logits[numbered], filters, numbers)
    for number, token in zip(numbered, ids.tolist(), strict=True):
        tokens[number] = token
    return tokens


def _prepared(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Returns the logits from which tokens are drawn: with first ids, masks, penalties and biases."""
    first = [number for number, row in enumerate(rows) if row.allowed is not None]
    masked = [number for number, row in enumerate(rows) if row.mask is not None]
    changed = [number for number, row in enumerate(rows) if not row.sampling.adjustments.change_nothing]
    if first or masked or changed:
        logits = logits.clone()
    for number in masked:
        logits[number, ~allowed_by(rows[number].mask, logits.shape[-1])] = -torch.inf
    for number in first:
        logits[number : number + 1] = only(logits[number : number + 1], rows[number].allowed or ())
    if changed:
        parts = [rows[number] for number in changed]
        logits[changed] = adjusted(
            logits[changed], [row.sampling.adjustments for row in parts], [row.prompt for row in parts],
            [row.output for row in parts],
        )  # fmt: skip
    return logits
