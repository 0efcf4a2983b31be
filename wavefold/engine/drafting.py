"""The drafts of running requests: which proposer makes them, and the depth that its acceptance is worth.

Look-up costs nothing and often finds nothing; MTP costs a pass of one layer and always has a guess. For each request
the one that promises more tokens a second goes first, and where it finds nothing, the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from wavefold.cache import Sequence as Cached
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Proposer, Text
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.model import Transformer

Drafts = Literal["lookup", "mtp", "both"]
REST = 8
"""Steps after which it is asked again whether drafts are worth their rows."""
DRAFTS: tuple[Drafts, ...] = ("lookup", "mtp", "both")


def proposers_of(model: Transformer, drafts: Drafts | None) -> list[Proposer]:
    """Returns the proposers by name; None: all that the model has. Raises ValueError for one that it lacks."""
    if drafts is not None and drafts not in DRAFTS:
        raise ValueError(f"drafts = {drafts!r} is not allowed; expected one of {', '.join(map(repr, DRAFTS))}, or None")
    if drafts is None:
        drafts = "both" if model.mtp else "lookup"
    proposers: list[Proposer] = [] if drafts == "mtp" else [LookupDrafts()]
    return proposers if drafts == "lookup" else [*proposers, MTPDrafts(model)]


@dataclass(eq=False)
class _Drafted:
    """A request with drafts. `acceptances`: by proposer. `by`: who made the drafts of the next step, if any are."""

    text: Text
    acceptances: list[Acceptance]
    by: int | None = None
    rests: list[int] = field(default_factory=list)
    """By proposer: steps in which it is not asked, since its drafts were not worth it."""

    def __post_init__(self) -> None:
        self.rests = [0] * len(self.acceptances)


@dataclass(frozen=True)
class _Option:
    """Guesses that a proposer, by number, may make for a request. `speed`: tokens a second that it promises."""

    drafted: _Drafted
    by: int
    depth: int
    speed: float


class Drafter:
    """Drafts of at most `depth` tokens by one of `proposers`. `speculation` decides how many."""

    def __init__(self, depth: int, proposers: Sequence[Proposer], speculation: Speculation | None = None):
        self._proposers, self._speculation = proposers, speculation or Speculation(depth)
        self._requests: dict[Request, _Drafted] = {}
        self._overall = [Acceptance() for _ in proposers]
        """Of all requests: where a new one begins half-way."""

    @property
    def window(self) -> int:
        """The streams of so many tokens at the end of a text are wanted."""
        return max(proposer.window for proposer in self._proposers)

    def observe_step(self, spans: Sequence[PlannedSpan], seconds: float) -> None:
        """Is told of the time of a step. Steps that read a prompt say nothing about drafts."""
        if all(span.num_tokens == 1 and span.wanted for span in spans):
            self._speculation.cost.observe(sum(1 + len(span.drafts) for span in spans), seconds)

    def observe(self, span: PlannedSpan, sequence: Cached, accepted: int, streams: Tensor | None) -> None:
        """Is told that `accepted` drafts of a span were right, and the streams of the last tokens in its sequence.

        The sequence is without the drafts that were wrong.
        """
        drafted = self._requests.get(span.request)
        if drafted is None or drafted.text.sequence is not sequence:
            drafted = self._begin(span.request, sequence)
        of = len(span.drafts)
        for number, proposer in enumerate(self._proposers):
            counts = (accepted, of) if number == drafted.by else (0, 0)
            proposer.observe(drafted.text, streams if proposer.window else None, *counts)
            if span.wanted:
                drafted.acceptances[number].observe(*counts)
                self._overall[number].observe(*counts)
        drafted.by = None

    def _begin(self, request: Request, sequence: Cached) -> _Drafted:
        """A request that is new, or that is read again into a new sequence."""
        before = self._requests.get(request)
        acceptances = before.acceptances if before else [Acceptance((0.5 + all.rate) / 2) for all in self._overall]
        drafted = self._requests[request] = _Drafted(Text(request, sequence), acceptances)
        return drafted

    def propose(self, requests: Sequence[Request], num_decodes: int) -> list[Sequence[int]]:
        """Returns drafts for the next step of requests that have been observed; `num_decodes` of all decode in it."""
        drafts: dict[Request, Sequence[int]] = {}
        options = [self._options(self._requests[request], num_decodes) for request in requests]
        for choice in range(len(self._proposers)):  # the best, and where it finds nothing the next best
            due = [left[choice] for left in options if len(left) > choice]
            due = [option for option in due if option.drafted.text.request not in drafts]
            for number in range(len(self._proposers)):
                self._fill(drafts, [option for option in due if option.by == number])
        return [drafts.get(request, ()) for request in requests]

    def _options(self, drafted: _Drafted, num_decodes: int) -> list[_Option]:
        """Returns what proposers may do for a request, the best first; nobody whose drafts are not worth it."""
        request, options = drafted.text.request, []
        drafted.text.read()
        left = request.max_tokens - len(request.output) - 1  # the last token needs no draft
        for number, (proposer, acceptance) in enumerate(zip(self._proposers, drafted.acceptances, strict=True)):
            if drafted.rests[number]:
                drafted.rests[number] -= 1
                continue
            if not proposer.finds(drafted.text):
                continue
            drafting_s = partial(proposer.seconds, num_texts=num_decodes)
            circumstances = num_decodes, num_decodes - 1, acceptance, drafting_s, proposer.behind_s(drafted.text)
            depth = min(self._speculation.depth(*circumstances), left)
            if depth == 0 and self._speculation.cost.line is not None:
                drafted.rests[number] = REST
            if depth > 0:
                speed = self._speculation.speed(depth, *circumstances)
                options.append(_Option(drafted, number, depth, speed))
        return sorted(options, key=lambda option: -option.speed)

    def _fill(self, drafts: dict[Request, Sequence[int]], options: Sequence[_Option]) -> None:
        """Adds the drafts that the options' proposer, one for all of them, finds."""
        if not options:
            return
        texts = [option.drafted.text for option in options]
        found = self._proposers[options[0].by].propose(texts, [option.depth for option in options])
        for option, guesses in zip(options, found, strict=True):
            if guesses:
                drafts[option.drafted.text.request] = guesses
                option.drafted.by = option.by

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._requests.pop(request, None)
        for proposer in self._proposers:
            proposer.forget(request)
