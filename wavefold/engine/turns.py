"""Whose turn it is to compute: the steps of a runner, one after another, and in between the passes of somebody else.

step, step, step ...          whoever asks first, as an RLock has it
a pass beside the requests    after the step that runs now; then a step, if one is asked for, before the next pass
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 0.05
"""A pass beside requests waits so long for the step that is due between it and the pass before."""


class Turns:
    """`lock` is held by who computes. Steps take it by `step`, others by `beside`: neither keeps the other waiting."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._gate = threading.Lock()
        """Who waits beside the steps holds it: the next step then comes after."""
        self._stepped = threading.Event()
        self._stepped.set()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The turn of a step."""
        with self._gate:
            pass
        with self.lock:
            self._stepped.set()
            yield

    @contextmanager
    def beside(self, idle: Callable[[], bool]) -> Iterator[None]:
        """The turn of a pass that is no step. `idle` is asked if no step is due, so that none need be waited for."""
        if not idle():
            self._stepped.wait(PATIENCE_S)
        with self._gate:
            self.lock.acquire()
        try:
            self._stepped.clear()
            yield
        finally:
            self.lock.release()
