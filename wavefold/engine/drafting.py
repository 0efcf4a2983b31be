"""The drafts of running requests: which proposer makes them, and the depth that its acceptance is worth.

Look-up costs nothing and often finds nothing; MTP costs a pass of one layer and always has a guess. For each request
the one that promises more tokens a second goes first, and where it finds nothing, the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from wavefold.cache import Sequence as Cached
from wavefold.engine.lookup import LookupDrafts
from wavefold.engine.mtp import MTPDrafts
from wavefold.engine.proposer import Proposer, Text
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.speculation import Acceptance, Speculation
from wavefold.engine.trials import PROBE_SHARE, Trials
from wavefold.model import Transformer

Drafts = Literal["lookup", "mtp", "both"]
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
    """A request with drafts. `acceptances`: by proposer and kind. `source`: of those of the next step, and their kind.

    By proposer: `tried` and `wakes`, the steps in which it made the last ones and is asked next; `fails`, how often it
    was asked for nothing since one was right.
    """

    text: Text
    acceptances: list[list[Acceptance]]
    tried: list[int]
    wakes: list[int]
    fails: list[int]
    source: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Option:
    """Guesses of a kind that a proposer, by number, may make for a request. `speed`: tokens a second it promises."""

    drafted: _Drafted
    by: int
    kind: int
    depth: int
    speed: float


class Drafter:
    """Drafts of at most `depth` tokens by one of `proposers`. `speculation` decides how many.

    A proposer whose drafts are not worth their rows rests: nothing is done for it meanwhile.
    """

    def __init__(self, depth: int, proposers: Sequence[Proposer], speculation: Speculation | None = None):
        self._proposers, self._speculation = proposers, speculation or Speculation(depth)
        self._requests: dict[Request, _Drafted] = {}
        self._overall = [[Acceptance() for _ in range(proposer.kinds)] for proposer in proposers]
        """Of all requests, by proposer and kind: where a new one begins."""
        self._trials = [Trials(PROBE_SHARE / len(proposers)) for _ in proposers]
        self._rests = [False] * len(proposers)
        """True for a proposer whose drafts were not worth it when last asked: a new request begins with its rest."""

    @property
    def window(self) -> int:
        """The streams of so many tokens at the end of a text are wanted, at most."""
        return max(proposer.window for proposer in self._proposers)

    def window_of(self, request: Request) -> int:
        """The streams of so many tokens at the end of this text are wanted in the next step."""
        drafted, now, window = self._requests.get(request), self._speculation.now, 0
        for number, proposer in enumerate(self._proposers):
            if proposer.window > window:
                rests = self._first_rest(number) if drafted is None else drafted.wakes[number] - now
                window = proposer.window if rests <= proposer.window else window
        return window

    def observe_step(self, spans: Sequence[PlannedSpan], seconds: float) -> None:
        """Is told of the time of a step. Steps that read a prompt say nothing about drafts."""
        rows = 0
        for span in spans:
            if span.num_tokens != 1 or not span.wanted:
                rows = 0
                break
            rows += 1 + len(span.drafts)
        self._speculation.observe(rows, seconds)

    def observe(self, span: PlannedSpan, sequence: Cached, accepted: int, streams: Tensor | None) -> None:
        """Is told that `accepted` drafts of a span were right, and the streams of the last tokens in its sequence.

        The sequence is without the drafts that were wrong. `streams` are None if `window_of` said 0.
        """
        drafted = self._requests.get(span.request)
        if drafted is None or drafted.text.sequence is not sequence:
            drafted = self._begin(span.request, sequence)
        if drafted.source is None and streams is None:
            return
        by, kind = drafted.source or (-1, 0)
        of, drafted.source = len(span.drafts), None
        for number, proposer in enumerate(self._proposers):
            if number == by or (streams is not None and proposer.window):
                counts = (accepted, of) if number == by else (0, 0)
                proposer.observe(drafted.text, streams if proposer.window else None, *counts)
        if of and span.wanted:
            waited = self._speculation.now - drafted.tried[by]
            drafted.acceptances[by][kind].observe(accepted, of, waited)
            self._overall[by][kind].observe(accepted, of)
            drafted.tried[by] = self._speculation.now
            if accepted:
                drafted.fails[by] = 0

    def _begin(self, request: Request, sequence: Cached) -> _Drafted:
        """A request that is new, or that is read again into a new sequence."""
        before, now, count = self._requests.get(request), self._speculation.now, len(self._proposers)
        acceptances = before.acceptances if before else [[Acceptance(a.rate) for a in all] for all in self._overall]
        wakes = [now + self._first_rest(number) for number in range(count)]
        drafted = _Drafted(Text(request, sequence), acceptances, [now] * count, wakes, [0] * count)
        self._requests[request] = drafted
        return drafted

    def _first_rest(self, number: int) -> int:
        """The steps for which a proposer rests in a new text. One that needs no streams is asked at once."""
        if not self._rests[number] or not self._proposers[number].window:
            return 0
        return self._speculation.rest(self._trials[number], 0, 1)

    def due(self, requests: Sequence[Request]) -> list[Request]:
        """Returns those of `requests`, which have been observed, for which a proposer does not rest."""
        now, drafted = self._speculation.now, self._requests
        return [request for request in requests if request in drafted and min(drafted[request].wakes) <= now]

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
        text, options, speculation = drafted.text, [], self._speculation
        text.read()
        left = text.request.max_tokens - len(text.request.output) - 1  # the last token needs no draft
        for number, proposer in enumerate(self._proposers):
            if drafted.wakes[number] > speculation.now:
                continue
            if (kind := proposer.kind(text)) is None:
                self._pause(drafted, number, num_decodes)
                continue
            acceptance = drafted.acceptances[number][kind]
            drafting_s = partial(proposer.seconds, num_texts=num_decodes)
            circumstances = num_decodes, num_decodes - 1, acceptance, drafting_s, proposer.behind_s(text)
            depth = min(speculation.depth(*circumstances), left)
            self._rests[number] = depth <= 0 < left
            if depth <= 0 < left and self._is_trial(drafted, number, *circumstances[2:]):
                depth = 1
            if depth > 0:
                options.append(_Option(drafted, number, kind, depth, speculation.speed(depth, *circumstances)))
            else:
                self._pause(drafted, number, num_decodes)
        return sorted(options, key=lambda option: -option.speed)

    def _is_trial(
        self, drafted: _Drafted, number: int, acceptance: Acceptance, drafting_s: Callable[[int], float],
        behind_s: float,
    ) -> bool:  # fmt: skip
        waited = self._speculation.now - drafted.tried[number]
        return self._speculation.is_trial(self._trials[number], waited, acceptance, drafting_s(1), behind_s)

    def _pause(self, drafted: _Drafted, number: int, num_decodes: int) -> None:
        """Lets a proposer rest: one that needs streams until a trial, any other the longer the more often it failed."""
        speculation, waited = self._speculation, self._speculation.now - drafted.tried[number]
        if self._proposers[number].window:
            rest = speculation.rest(self._trials[number], waited, num_decodes)
        else:
            drafted.fails[number] += 1
            rest = speculation.pause(drafted.fails[number])
        drafted.wakes[number] = speculation.now + rest

    def _fill(self, drafts: dict[Request, Sequence[int]], options: Sequence[_Option]) -> None:
        """Adds the drafts that the options' proposer, one for all of them, finds."""
        if not options:
            return
        texts = [option.drafted.text for option in options]
        found = self._proposers[options[0].by].propose(texts, [option.depth for option in options])
        for option, guesses in zip(options, found, strict=True):
            if guesses:
                drafts[option.drafted.text.request] = guesses
                option.drafted.source = option.by, option.kind

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._requests.pop(request, None)
        for proposer in self._proposers:
            proposer.forget(request)
