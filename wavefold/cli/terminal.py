"""Text and bars for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could change its state, become U+FFFD."""
    return "".join("\ufffd" if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 else c for c in text)


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 line, 2 lines."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def wide_console(width: int) -> Console:
    """A console of standard output, in a file at least `width` columns wide, so that no table is cut off."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, width)
    return console


@contextmanager
def bar(title: str, in_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, with the time left, while the block runs; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task("", total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)
