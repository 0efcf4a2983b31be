"""Prompts from the keyboard: several lines, a history of them where Python has readline."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wavefold.cli.folders import cache_folder

HISTORY_LINES = 1000


def read(ask: Callable[[str], str] | None = None) -> str | None:
    r"""The next prompt that is not empty, or None at the end of the input.

    A line that ends in a backslash goes on in the next one; an empty line ends it too. Ctrl-C drops what was typed.
    """
    ask = ask or _ask
    lines: list[str] = []
    while True:
        try:
            line = ask("... " if lines else "> ")
        except EOFError:
            return "\n".join(lines) or None
        except KeyboardInterrupt:
            print()
            lines = []
            continue
        if line.endswith("\\"):
            lines.append(line[:-1])
            continue
        if line:
            lines.append(line)
        if lines:
            return "\n".join(lines)


def _ask(prompt: str) -> str:
    """A line from stdin, with `prompt` only where somebody sees it."""
    return input(prompt if sys.stdin.isatty() else "")


@contextlib.contextmanager
def history() -> Iterator[None]:
    """Keep the lines of earlier runs at hand, in a file that only the user can read."""
    try:
        import readline
    except ImportError:  # a Python built without it
        yield
        return
    path = history_path()
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # none yet, or one that cannot be read: nothing to go without a prompt for
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            path.chmod(0o600)
            readline.write_history_file(path)
            path.chmod(0o600)


def history_path() -> Path:
    """`history` in the cache folder."""
    return cache_folder() / "history"
