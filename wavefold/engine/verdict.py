"""What the logits of a step say about each request: its next tokens, log probabilities, or an error.

A draft is right if it is the token that the number of its position chooses; the tokens are those without drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.engine.choosing import next_tokens
from wavefold.engine.logprobs import TokenLogprob, logprobs
from wavefold.engine.rows import SpanRows, answer_of, choice_rows
from wavefold.engine.sampler import DAMAGED, usable

AT_ONCE = 64
"""Rows whose log probabilities are computed at a time: each takes the vocabulary in float64, and its order."""


class Verdict(NamedTuple):
    """Of a span: its tokens, as many as accepted drafts and one, and the log probabilities that were asked for."""

    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    error: str = ""


def verdicts(logits: Tensor, spans: Sequence[SpanRows]) -> list[Verdict]:
    """logits float32 [rows that are wanted, vocab] -> the verdict on each span. No request changes."""
    numbers = [number for rows in spans for number in rows.choice_rows]
    chosen = next_tokens(logits, [row for rows in spans if rows.choices for row in choice_rows(rows.span)], numbers)
    by_row = dict(zip(numbers, chosen, strict=True))
    return [_verdict(logits, rows, [by_row[number] for number in rows.choice_rows]) for rows in spans]


def _verdict(logits: Tensor, rows: SpanRows, chosen: Sequence[int | None]) -> Verdict:
    answer = answer_of(rows.span.request)
    sampling = answer.sampling
    prompt_logprobs: list[TokenLogprob] = []
    if rows.scored:
        assert answer.next_scored is not None and sampling.prompt_logprobs is not None
        scored = logits[rows.scored_rows]
        if not bool(usable(scored).all()):
            return Verdict(error=DAMAGED)
        ids = answer.prompt.ids[answer.next_scored : answer.next_scored + rows.scored]
        prompt_logprobs = _in_parts(scored, ids, sampling.prompt_logprobs)
    tokens, error = _accepted(rows.span.drafts, chosen)
    if rows.choices and answer.grammar and answer.grammar.error:
        tokens, error = [], answer.grammar.error
    of_tokens: list[TokenLogprob] = []
    if sampling.logprobs is not None and tokens:
        first = rows.choice_rows.start
        of_tokens = _in_parts(logits[first : first + len(tokens)], tokens, sampling.logprobs)
    return Verdict(tokens, of_tokens, prompt_logprobs, error)


def _accepted(drafts: Sequence[int], chosen: Sequence[int | None]) -> tuple[list[int], str]:
    """Returns the chosen tokens up to the first that is not its draft, and an error where one could not be chosen."""
    tokens: list[int] = []
    for number, token in enumerate(chosen):
        if token is None:
            return tokens, DAMAGED
        tokens.append(token)
        if number < len(drafts) and drafts[number] != token:
            break
    return tokens, ""


def _in_parts(logits: Tensor, ids: Sequence[int], num_best: int) -> list[TokenLogprob]:
    entries: list[TokenLogprob] = []
    for part, first in zip(torch.split(logits, AT_ONCE), range(0, len(ids), AT_ONCE), strict=True):
        entries += logprobs(part, ids[first : first + AT_ONCE], num_best)
    return entries
