"""News on their way from the engine's thread to the event loop: tokens of quick steps go together.

step of 6 ms     t   t   t   t   t   t   t   t   t      a token of each request that runs
told             t                               t t t t t t t t     within HOLD_S

Waking the loop and writing to a socket cost more than a token of a small model, on cores that compute. A first token,
an end and the progress of a prompt are told at once, and so is each token of a model whose steps take longer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from wavefold.server.news import News, Reader

HOLD_S = 0.05
"""The longest that a token waits for others of its request. Twenty times a second is smooth to the eye."""
SLOW_S = HOLD_S / 2
"""Nothing of a step that took so long waits: hardly two tokens would go together."""

Batch = list[tuple[Reader, News]]


class Outbox:
    """Holds news for `deliver`, which is called in the loop. `put` is the other thread's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Batch], None],
        clock: Callable[[], float] = time.perf_counter,
    ):  # fmt: skip
        self._loop, self._deliver, self._clock = loop, deliver, clock
        self._lock = threading.Lock()
        self._pending: dict[Reader, News] = {}
        self._is_pulled = False
        """The loop will ask for what is held."""
        self._told = -HOLD_S
        """When something that was held, or might have been, was told."""

    def put(self, batch: Batch, step_s: float) -> None:
        """Tells the news of a step that took so long, or holds them. Raises RuntimeError where the loop has ended."""
        if not batch:
            return
        now = self._clock()
        with self._lock:
            is_due = step_s >= SLOW_S or now - self._told >= HOLD_S
            due: Batch = []
            for reader, news in batch:
                pending = self._pending.get(reader)
                if pending is not None:
                    pending.merge(news)
                    news = pending
                if is_due or news.is_urgent:
                    self._pending.pop(reader, None)
                    due.append((reader, news))
                elif pending is None:
                    self._pending[reader] = news
            if is_due:
                self._told = now
                due += self._pending.items()
                self._pending = {}
            wait_s = None
            if self._pending and not self._is_pulled:
                self._is_pulled, wait_s = True, self._told + HOLD_S - now
        if due:
            self._loop.call_soon_threadsafe(self._deliver, due)
        if wait_s is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, wait_s, self._pull)

    def _pull(self) -> None:
        """Tells what is held, in the loop."""
        with self._lock:
            pending, self._pending, self._is_pulled = self._pending, {}, False
            self._told = self._clock()
        if pending:
            self._deliver(list(pending.items()))
