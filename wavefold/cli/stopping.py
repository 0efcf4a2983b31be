"""Ctrl-C while an answer is made: the first one asks for its end between two passes, a second one interrupts the pass.

So what a stopped answer has computed stays in the prefix cache, whatever moment the key was pressed at.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]


class Stopped(Exception):
    """An answer ends here, as it was asked to."""


class Stop:
    """`asked`: somebody pressed Ctrl-C."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """Raises Stopped if it was asked for."""
        if self.asked:
            raise Stopped

    def checking(self, progress: Progress) -> Progress:
        """`progress`, which is told between two passes of a prompt, and then the check."""

        def told(done: int, of: int) -> None:
            progress(done, of)
            self.check()

        return told

    def _pressed(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def stopping(is_on: bool) -> Iterator[Stop]:
    """While the block runs, Ctrl-C is a question, if `is_on`. In other threads than the main one nothing changes."""
    stop = Stop()
    if not is_on or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop._pressed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
