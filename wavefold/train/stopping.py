"""SIGTERM and Ctrl-C during a run: the first one stops after the step, with a state; the second one at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved its state."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.exit_code = 128 + number
        """Exit code of a shell for this signal."""


class Stopping:
    """In the `with` block, `signal` is the number of the first stop signal, or 0.

    A signal that the process ignores (Ctrl-C in background jobs) stays ignored. Outside of the main thread no handler
    can be set, so signals keep their effect.
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
        self._restore()  # the next signal ends the process at once
        print("wavefold: ends after this step, with a state; once more to end at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
