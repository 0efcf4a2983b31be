"""The drafts of running requests: a proposer for each, and the depth that its acceptance is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wavefold.engine.lookup import Lookup
from wavefold.engine.proposer import Proposer
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.speculation import Acceptance, Speculation


@dataclass
class _Drafts:
    """Of one request. `tokens`: prompt and output."""

    proposer: Proposer
    tokens: list[int]
    acceptance: Acceptance = field(default_factory=Acceptance)


class Drafter:
    """Drafts of at most `depth` tokens. `proposer` makes a request's proposer, `speculation` decides the depth."""

    def __init__(
        self, depth: int, proposer: Callable[[], Proposer] = Lookup, speculation: Speculation | None = None
    ):  # fmt: skip
        self._proposer, self._speculation = proposer, speculation or Speculation(depth)
        self._requests: dict[Request, _Drafts] = {}

    def observe_step(self, spans: Sequence[PlannedSpan], seconds: float) -> None:
        """Is told of the time of a step. Steps that read a prompt say nothing about drafts."""
        if all(span.num_tokens == 1 and span.wanted for span in spans):
            self._speculation.cost.observe(sum(1 + len(span.drafts) for span in spans), seconds)

    def observe(self, span: PlannedSpan, tokens: Sequence[int], forced: Sequence[int] = ()) -> None:
        """Is told of a span's tokens: as many chosen ones as its accepted drafts and one, then forced ones."""
        request = span.request
        drafts = self._requests.get(request)
        if drafts is None:
            drafts = self._requests[request] = _Drafts(self._proposer(), [*request.prompt, *request.output])
        drafts.tokens += [*tokens, *forced]
        drafts.proposer.observe(len(tokens) - 1, len(span.drafts))
        drafts.acceptance.observe(len(tokens) - 1, len(span.drafts))

    def propose(self, request: Request, num_decodes: int) -> Sequence[int]:
        """Returns drafts for the next step of an observed request, beside `num_decodes` - 1 others."""
        drafts = self._requests[request]
        depth = self._speculation.depth(num_decodes, num_decodes - 1, drafts.acceptance)
        return drafts.proposer.propose(drafts.tokens, depth) if depth else ()

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._requests.pop(request, None)
