"""News on their way from the engine's thread to the event loop: tokens of quick steps go together.

step of 6 ms     t   t   t   t   t   t   t   t   t      a token of each request that runs
told             t                               t t t t t t t t     within HOLD_S

Waking the loop and writing to a socket cost more than a token of a small model, on cores that compute. A first token,
an end and the progress of a prompt are told at once, and so is each token of a model whose steps take longer. All of
it is delivered in the order in which it was put or taken, whichever of the loop's calls comes first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from wavefold.server.news import News, Reader

HOLD_S = 0.04
"""The longest that a token waits for others of its request. Twenty-five times a second is smooth to the eye."""
SLOW_S = HOLD_S / 2
"""Nothing of a step that took so long waits: hardly two tokens would go together."""

Batch = list[tuple[Reader, News]]


class Outbox:
    """Holds tokens for `deliver`, which is called in the loop. `hold` and `put` are the engine thread's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deliver: Callable[[Batch], None],
        clock: Callable[[], float] = time.perf_counter,
    ):  # fmt: skip
        self._loop, self._deliver, self._clock = loop, deliver, clock
        self._lock = threading.Lock()
        self._readers: dict[Reader, None] = {}
        """Those with tokens that were not told."""
        self._ready: Batch = []
        """What the loop was woken for and has not taken, in order."""
        self._is_pulled = False
        """The loop will ask for what is held."""
        self._told = -HOLD_S
        """When all that was held was told."""

    def hold(self, reader: Reader) -> None:
        """A reader has tokens that may wait. `put` follows."""
        with self._lock:
            self._readers[reader] = None

    def put(self, batch: Batch, step_s: float) -> None:
        """Tells news at once, each with the tokens of its reader, and what has been held for long enough.

        `step_s`: how long their step took. Raises RuntimeError where the loop has ended.
        """
        if not (batch or self._readers):
            return
        now, wait_s = self._clock(), None
        with self._lock:
            for reader, news in batch:
                self._readers.pop(reader, None)
                reader.add_tokens(news)
            if step_s >= SLOW_S or now - self._told >= HOLD_S:
                batch = batch + self._taken(now)
            elif self._readers and not self._is_pulled:
                self._is_pulled, wait_s = True, self._told + HOLD_S - now
            wakes = bool(batch) and not self._ready
            self._ready += batch
        if wakes:
            self._loop.call_soon_threadsafe(self.tell)
        if wait_s is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, wait_s, self._pull)

    def tell(self) -> None:
        """Delivers what is ready, in the loop."""
        with self._lock:
            batch, self._ready = self._ready, []
        if batch:
            self._deliver(batch)

    def _taken(self, now: float) -> Batch:
        self._told = now
        readers, self._readers = self._readers, {}
        return [(reader, reader.add_tokens(News())) for reader in readers]

    def _pull(self) -> None:
        """Tells what is held, in the loop, after what was put before."""
        with self._lock:
            self._is_pulled = False
            self._ready += self._taken(self._clock())
        self.tell()
