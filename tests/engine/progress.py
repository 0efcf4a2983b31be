"""What a long run prints about how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 10


def progress(count: int, unit: str) -> Callable[[int], None]:
    """Returns a function of what is done, which prints it with the time left: every 10 seconds, and at the end."""
    started = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= EVERY_S or done >= count:
            shown = now
            left = (now - started) / done * max(0, count - done)
            print(f"{done:,} of {count:,} {unit}, {now - started:.0f} s, {left:.0f} s left", flush=True)

    return show
