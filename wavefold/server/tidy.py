"""Memory that was freed goes back to the system in quiet moments.

glibc keeps what is freed between blocks that are in use. After bodies of megabytes and hundreds of answers at once that
is a tenth and more of a small model's process, though nothing of it is needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

QUIET_S = 1.0
"""So long nothing was asked."""
EVERY_S = 10.0
"""So far apart two times are at least."""


class Tidy:
    """Counts the requests that are open, in an event loop. `trim` is called in a thread."""

    def __init__(self, trim: Callable[[], object] | None):
        self._trim = trim
        self._num_open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = -EVERY_S

    def begin(self) -> None:
        """A request has come."""
        self._num_open += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """A request has been answered, or its client has left."""
        self._num_open -= 1
        if not self._num_open and self._trim is not None:
            loop, wait_s = asyncio.get_running_loop(), self._last + EVERY_S - time.monotonic()
            self._timer = loop.call_later(max(QUIET_S, wait_s), self._run, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._trim is not None
        self._timer, self._last = None, time.monotonic()
        loop.run_in_executor(None, self._trim)
