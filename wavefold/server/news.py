"""What has become of a request, as the engine's thread tells the event loop, and the one who reads it there.

engine thread: a step -> News of each request -> one call into the loop -> Reader merges -> `await reader.news()`
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wavefold.engine import TokenLogprob, Usage
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of


class Ended(NamedTuple):
    """How a request ended: the `finish_reason` of its `Completion`, or "refused" where it was never begun.

    `error` says why, for "error" and "refused". `prompt_logprobs` are those of the `Completion`. `queue_s`: until it
    was begun; `first_s`: until its first token; `total_s`: all. Seconds since it was submitted; None for what did not
    happen. `num_tokens`: those that the engine chose, where `usage` has those up to a stop text of the protocol.
    """

    reason: str
    usage: Usage
    error: str = ""
    queue_s: float | None = None
    first_s: float | None = None
    total_s: float = 0.0
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    num_tokens: int = 0


@dataclass(slots=True)
class News:
    """What has come since the last look. `begun`: it was admitted in this time, with `usage` of its prompt.

    `read`: tokens of the prompt that have been read, None if there are no more of them than before. `ids` and
    `logprobs` are new tokens; the latter are empty unless they were asked for.
    """

    begun: Usage | None = None
    read: int | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: Ended | None = None

    def merge(self, later: News) -> None:
        """Adds what came later. Only ids and log probabilities grow, at most by all tokens of an answer."""
        self.begun = later.begun or self.begun
        self.read = self.read if later.read is None else later.read
        self.ids += later.ids
        self.logprobs += later.logprobs
        self.ended = later.ended or self.ended

    def __bool__(self) -> bool:
        return bool(self.begun or self.ids or self.ended) or self.read is not None


class Reader:
    """Who waits for a request in an event loop. `close` ends the request, if it has not ended by itself.

    `abort` is given the reader and the reason, in the loop's thread.
    """

    def __init__(self, request: Request, abort: Callable[[Reader, str], None]):
        self.request = request
        self.submitted = time.perf_counter()
        self.ended: Ended | None = None
        self._abort = abort
        self._news = News()
        self.woken: asyncio.Future[None] | None = None
        """Of whoever waits for news."""
        self.queue_s: float | None = None
        self.first_s: float | None = None
        """These two and the next three are the engine thread's."""
        self.num_known = self.num_read = 0
        self.is_begun = False
        self.num_told = 0
        """Tokens that were told, of the `num_known`."""

    def push(self, news: News) -> None:
        """Takes what is new, in the loop's thread."""
        self._news.merge(news)
        self.ended = news.ended or self.ended
        if self.woken is not None:
            _wake(self.woken)

    def add_tokens(self, news: News) -> News:
        """Puts the known tokens that were not told into news, which it returns. One thread at a time."""
        first, end = self.num_told, self.num_known
        if first < end:
            answer, self.num_told = answer_of(self.request), end
            news.ids, news.logprobs = answer.tokens[first:end], answer.logprobs[first:end]
        return news

    @property
    def has_news(self) -> bool:
        return bool(self._news) or self.ended is not None

    def taken(self) -> News:
        """Returns what has come and was not returned before."""
        news, self._news = self._news, News()
        return news

    async def news(self, timeout_s: float | None = None) -> News:
        """Returns what has come and was not returned before. Waits for it; after `timeout_s` there may be none."""
        await wait([self], timeout_s)
        return self.taken()

    def so_far(self, reason: str, error: str = "") -> Ended:
        """Returns the end of the request, if it were now."""
        answer, now = answer_of(self.request), time.perf_counter()
        times = self.queue_s, self.first_s, now - self.submitted
        return Ended(reason, answer.usage, error, *times, answer.scores or (), len(answer.tokens))

    def close(self, reason: str = "interrupted") -> None:
        """Ends the request here, for a reason that is counted. What was read of its prompt stays cached."""
        if self.ended is None:
            self._abort(self, reason)


async def wait(readers: Sequence[Reader], timeout_s: float | None = None) -> None:
    """Waits until one of `readers` has news, for `timeout_s` at most."""
    if any(reader.has_news for reader in readers):
        return
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    for reader in readers:
        reader.woken = woken
    timer = None if timeout_s is None else loop.call_later(timeout_s, _wake, woken)
    try:
        await woken
    finally:
        for reader in readers:
            reader.woken = None
        if timer is not None:
            timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
