"""How much memory the slots of routed experts may take now: the first to give memory back when it becomes scarce.

    limit   of the budget (resident memory), of each control group, of the machine (MemAvailable)
    others  what it counts beside the slots: used - slots
    allowed = limit - reserve - others       the least over all limits, and over the last `HOLD_S` seconds

A limit that is lowered, or others that grow, count at once. Memory that becomes free counts once it has been free for
`HOLD_S`. Others are measured in the midst of passes and between them, so their peak is known.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from wavefold.system import Limit, rss_bytes
from wavefold.system.memory import resident_limits

PERIOD_S = 1.0
"""Seconds between two looks: each reads a dozen small files of /proc and of control groups."""
HOLD_S = 30.0
RESERVE_SHARE, MOST_RESERVE = 64, 64 << 20
"""A limit counts as met where less than one in so many of its bytes is free, or less than `MOST_RESERVE`."""


class Fitting(Protocol):
    """Memory that can become less and more: a store of streamed experts."""

    closing: threading.Event

    @property
    def resident_bytes(self) -> int: ...

    def fit(self, num_bytes: int) -> None: ...


class Pressure:
    """The limits on a process that may take `budget` bytes of resident memory (None: no such limit)."""

    def __init__(
        self, budget: int | None = None, limits: Callable[[], list[Limit]] = resident_limits,
        now: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._budget, self._limits, self._now = budget, limits, now
        self._seen: deque[tuple[float, int]] = deque()

    def allowed(self, slots_bytes: int) -> int:
        """Returns the bytes that slots may take, of which `slots_bytes` are resident. It may be negative."""
        limits = self._limits()
        if self._budget is not None:
            limits = [*limits, Limit("memory", self._budget, self._budget - rss_bytes())]
        now = self._now()
        allowed = min((limit.free - reserve(limit) for limit in limits), default=1 << 62) + slots_bytes
        while self._seen and self._seen[0][0] < now - HOLD_S:
            self._seen.popleft()
        while self._seen and self._seen[-1][1] >= allowed:  # what is later and less decides in their place
            self._seen.pop()
        self._seen.append((now, allowed))
        return self._seen[0][1]


def reserve(limit: Limit) -> int:
    """Returns the bytes of a limit that are left free."""
    return min(limit.total // RESERVE_SHARE, MOST_RESERVE)


def watch(store: Fitting, pressure: Pressure, period_s: float = PERIOD_S) -> None:
    """Fits a store to what is allowed, every `period_s` seconds in a thread of its own, until it is closed or gone.

    Nothing happens where the system does not say what is resident (/proc).
    """
    if not Path("/proc/self/status").exists():
        return
    arguments = weakref.ref(store), store.closing, pressure, period_s
    threading.Thread(target=_watch, args=arguments, name="expert-pressure", daemon=True).start()


def _watch(
    reference: weakref.ref[Fitting], closing: threading.Event, pressure: Pressure, period_s: float
) -> None:  # fmt: skip
    while not closing.wait(period_s):
        if (store := reference()) is None:
            return
        store.fit(pressure.allowed(store.resident_bytes))
        del store
