"""The vocabulary of scheduling: a request, the plan of a step, what the step gave. Plain data, no tensors.

Request --add--> waiting --schedule--> running --complete--> finished
                    ^                     |
                    +---- preempted ------+        abort: finished, from anywhere
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

State = Literal["waiting", "running", "finished"]
"""Waiting: it holds no blocks. Running: it holds blocks. Finished: it has a finish reason and holds nothing."""

FinishReason = Literal["eos", "stop", "length", "error", "abort"]
"""Why a request ended. The runner says "eos", "stop" and "error", the scheduler says "length" and "abort"."""


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and its answer so far. The caller fills the first six fields, the scheduler owns the others.

    `prompt` and `output` are token ids. `priority`: larger is more urgent. `sampling` and `adapter` are for the runner
    alone.
    """

    id: Hashable
    prompt: Sequence[int]
    max_tokens: int
    priority: int = 0
    sampling: object = None
    adapter: object = None

    state: State = "waiting"
    finish_reason: FinishReason | None = None
    arrival: int = 0
    """The step before which it was added."""
    rank: tuple[int, int] = (0, 0)
    """Requests are served in ascending order of it. It never changes."""
    output: list[int] = field(default_factory=list)
    num_tokens: int = 0
    """Tokens of prompt and output. The last one's successor is what the next logits choose."""
    num_cached: int = 0
    """Tokens in the cache, always fewer than `num_tokens`."""
    num_blocks: int = 0
    """Blocks that it holds."""
    drafts: Sequence[int] = ()
    """Guesses of the next tokens, from the runner."""
    num_preemptions: int = 0
    marks: Sequence[int] = ()
    """Ascending multiples of 128, fewer than its blocks. A span goes over one of them at most. From `find`."""

    @property
    def readable(self) -> int:
        """Tokens that may be run in one span: all that are known and not cached, or those up to the mark after next."""
        second = bisect_right(self.marks, self.num_cached) + 1
        end = self.marks[second] if second < len(self.marks) else self.num_tokens
        return min(end, self.num_tokens) - self.num_cached

    @property
    def peak_tokens(self) -> int:
        """Tokens in the cache at the end of the longest answer."""
        return cached_tokens(len(self.prompt), self.max_tokens)


class PlannedSpan(NamedTuple):
    """A request's rows in a step: its tokens `first` to `first + num_tokens`, then `drafts`.

    `wanted`: the span reaches the last known token. The logits of that row and of the drafts' rows choose tokens.
    """

    request: Request
    first: int
    num_tokens: int
    wanted: bool
    drafts: Sequence[int] = ()


class Plan(NamedTuple):
    """One step. The runner closes the sequences of `released`, then runs the `spans`.

    `released` are the requests that gave their blocks back since the plan before: finished, aborted or preempted. A
    preempted request may come again, from its first token, or behind those that are cached.
    """

    spans: list[PlannedSpan]
    released: list[Request]


class Result(NamedTuple):
    """What a wanted span gave: one token more than the drafts that were accepted, or fewer if the answer ended.

    `drafts` are guesses of the tokens after `tokens`, for the next step. `finish`: why the answer ended, if it did.
    The last `forced` of the tokens were never chosen, because nothing else was allowed: the next step reads them.
    """

    tokens: Sequence[int]
    drafts: Sequence[int] = ()
    finish: FinishReason | None = None
    forced: int = 0


class Output(NamedTuple):
    """New tokens of a request. With a `finish_reason` they are its last."""

    request: Request
    tokens: Sequence[int]
    finish_reason: FinishReason | None


def cached_tokens(prompt_tokens: int, max_tokens: int) -> int:
    """Tokens in the cache at the end of the longest answer. The last token is not run."""
    return prompt_tokens + max_tokens - 1
