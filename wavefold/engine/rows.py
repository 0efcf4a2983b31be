"""The rows of a step: which tokens of which requests it runs, and which logits are for what.

span of a prompt     t t t t t          its scored tokens' logits, and the last row's if the prompt ends here
span of a decode     t d d d            the logits of the last known token, and of each draft after it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wavefold.engine.answer import Answer
from wavefold.engine.choosing import Row
from wavefold.engine.request import PlannedSpan, Request
from wavefold.ops import Adapter


class SpanRows(NamedTuple):
    """The rows of logits of a span, from `first` on: `scored` of the prompt's tokens, then `choices`.

    `streams`: the rows of the step's streams that are those of the span's last tokens; None if they are not wanted.
    """

    span: PlannedSpan
    first: int
    scored: int
    choices: int
    streams: slice | None = None

    @property
    def scored_rows(self) -> slice:
        return slice(self.first, self.first + self.scored)

    @property
    def choice_rows(self) -> range:
        return range(self.first + self.scored, self.first + self.scored + self.choices)


class StepRows(NamedTuple):
    """The token ids of a step, the number of them in each span, the rows whose logits and whose streams are wanted."""

    tokens: list[int]
    counts: list[int]
    wanted: list[int]
    streams_of: list[int]
    spans: list[SpanRows]


def answer_of(request: Request) -> Answer:
    """Returns the answer that a request of the runner carries as its `sampling`."""
    return request.sampling  # type: ignore[return-value]


def adapter_of(request: Request) -> Adapter | None:
    """Returns the adapter that a request goes through; None: the model alone."""
    return request.adapter  # type: ignore[return-value]


def num_read(request: Request) -> int:
    """Returns how many tokens of a request's prompt have been read."""
    answer, of = answer_of(request), len(request.prompt)
    return of if answer.num_chosen or answer.finish_reason else min(request.num_cached, of)


def known_parts(request: Request, first: int, end: int) -> tuple[Sequence[int], Sequence[int]]:
    """Returns the tokens `first` to `end`: those of the prompt, and those of the output."""
    num_prompt = len(request.prompt)
    return request.prompt[first:end], request.output[max(0, first - num_prompt) : max(0, end - num_prompt)]


def known_tokens(request: Request, first: int, end: int) -> list[int]:
    """Returns the tokens `first` to `end` of prompt and output."""
    prompt, output = known_parts(request, first, end)
    return [*prompt, *output]


def rows_of(spans: Sequence[PlannedSpan], windows: Sequence[int] = ()) -> StepRows:
    """Returns the rows of a plan's spans, in their order. Streams are wanted of a request's last `windows[i]` tokens.

    Without `windows` none are.
    """
    rows = StepRows([], [], [], [], [])
    for number, span in enumerate(spans):
        start, end = len(rows.tokens), span.first + span.num_tokens
        next_scored = answer_of(span.request).next_scored
        scored = []
        if next_scored is not None:  # the row of a token scores the token after it
            scored = list(range(max(next_scored - 1, span.first), min(end, len(span.request.prompt) - 1)))
        choices = range(end - 1, end + len(span.drafts)) if span.wanted else range(0)
        window = windows[number] if windows else 0
        with_streams = range(max(span.first, span.request.num_tokens - window), end + len(span.drafts) if window else 0)
        streams = slice(len(rows.streams_of), len(rows.streams_of) + len(with_streams)) if with_streams else None
        rows.spans.append(SpanRows(span, len(rows.wanted), len(scored), len(choices), streams))
        rows.wanted.extend(start + position - span.first for position in (*scored, *choices))
        rows.streams_of.extend(start + position - span.first for position in with_streams)
        rows.tokens.extend((*known_tokens(span.request, span.first, end), *span.drafts))
        rows.counts.append(span.num_tokens + len(span.drafts))
    return rows


def choice_rows(span: PlannedSpan) -> list[Row]:
    """Returns how the token after the last known one is chosen, and the token after each draft, if it is right."""
    request, answer = span.request, answer_of(span.request)
    outputs = [request.output] + [[*request.output, *span.drafts[:number]] for number in range(1, len(span.drafts) + 1)]
    masks = answer.grammar.masks(span.drafts) if answer.grammar else [None] * len(outputs)
    first_ids = answer.prompt.first_ids
    return [
        Row(answer.sampling, answer.prompt_ids, output, first_ids, answer.index, mask)
        for output, mask in zip(outputs, masks, strict=True)
    ]
