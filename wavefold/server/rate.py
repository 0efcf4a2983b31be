"""How many of something come in a second, of late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 5.0


class Rate:
    """Counts over the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._began = clock()
        self._counts: deque[tuple[float, int]] = deque()
        self.total = 0

    def add(self, count: int) -> None:
        """So many have come now."""
        if count:
            self.total += count
            self._counts.append((self._clock(), count))
            self._drop()

    @property
    def per_s(self) -> float:
        """So many a second came in the last seconds, or since the beginning."""
        self._drop()
        return sum(count for _, count in self._counts) / max(min(WINDOW_S, self._clock() - self._began), 1e-3)

    def _drop(self) -> None:
        least = self._clock() - WINDOW_S
        while self._counts and self._counts[0][0] < least:
            self._counts.popleft()
