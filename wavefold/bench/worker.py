"""A process beside this one that answers requests in lines of JSON, and stands still between them.

    this process                     the other
                      command  ->    loads, prints {} or {"error": why it cannot}
    ask(request)      JSON     ->    works, prints its answer

It is stopped (SIGSTOP) between requests, so that threads that wait actively take nothing from another one's turn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from wavefold import ops
from wavefold.ops import native
from wavefold.ops.tuning import VARIABLE


class Worker:
    """Owns the process. Close it, or use it in a `with`."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]):
        """`environment` comes on top of the process's and of the tuning in use.

        Raises ValueError, with its reason, if the worker gives up.
        """
        self.name = name
        tuning = {VARIABLE: str(ops.current().tuning)} if native.available() else {}
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True,
            env={**os.environ, **tuning, **environment},
        )  # fmt: skip
        try:
            self.greeting = self._answer()
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Returns the answer to one request. Raises ValueError with the worker's last words where there is none."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._words):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._words.seek(0)
            words = self._words.read().strip().splitlines() or [f"exit code {self._process.wait()}"]
            raise ValueError(f"{self.name}: its process ended: {words[-1]}")
        answer: dict[str, Any] = json.loads(line)
        if error := answer.get("error"):
            raise ValueError(f"{self.name}: {error}")
        return answer

    def _signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
