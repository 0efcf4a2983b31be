"""A terminal with somebody at it: a command in a pseudo-terminal, what it writes, and keys that are pressed."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

CTRL_C, CTRL_D = "\x03", "\x04"
BEGIN = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from wavefold.cli.main import main
"""
"""The terminal becomes the process's own, so that Ctrl-C is a signal; tests in the background of a shell inherit that
it is ignored."""


class Keyboard:
    """`text` is all that the command has written. Close it, or use it in a `with`."""

    def __init__(self, *command: str, home: Path):
        """`home`: where the history of typed lines goes."""
        self._ours, theirs = pty.openpty()
        env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "XDG_CACHE_HOME": str(home)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + f"sys.exit(main({list(command)!r}))"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.text, self._seen = "", 0

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def type(self, line: str) -> None:
        """Waits for the prompt, types a line, and waits until the terminal has shown it: the rest is the answer."""
        self.expect(r"> \Z")
        self.press(line + "\n")
        self.expect("\n")

    def expect(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Returns the match of an expression in what was written since the last one. Fails if it does not come."""
        found = self._found(pattern, seconds)
        assert found is not None, f"{pattern!r} did not come: {self.text[self._seen :]!r}"
        return found

    def interrupt(self, pattern: str) -> None:
        """Presses Ctrl-C until an expression comes.

        readline (Python 3.11) sees a signal that falls between two of its waits only with the next key.
        """
        tries = 0
        while True:
            self.press(CTRL_C)
            if self._found(pattern, 2):
                return
            tries += 1
            assert tries < 20, f"{pattern!r} did not come: {self.text[self._seen :]!r}"

    def _found(self, pattern: str, seconds: float) -> re.Match[str] | None:
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text[self._seen :])):
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                return None
        self._seen += found.end()
        return found

    def end(self, seconds: float = 60) -> int:
        """Reads to the end. Returns the exit code."""
        while self._read(seconds):
            pass
        return self._process.wait(timeout=seconds)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += part.decode(errors="replace")
        return bool(part)

    def __enter__(self) -> Keyboard:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
