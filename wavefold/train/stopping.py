"""SIGTERM and Ctrl-C during a run: the first ends it after the step, with a state; the second ends it at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run that was asked to end and has saved its state."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.exit_code = 128 + number
        """What a shell calls the end by this signal."""


class Stopping:
    """While the `with` block runs, `signal` is the number of the first signal that asked for an end, else 0.

    A signal that the process ignores, as background jobs do Ctrl-C, stays ignored. Outside of the main thread, where no
    handler may be set, signals do what they did before.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            asked = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._ask) for number in asked}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()  # the next one ends the process at once
        print("wavefold: ends after this step, with a state; once more to end at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
