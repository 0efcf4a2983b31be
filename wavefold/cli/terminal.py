"""Text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could change its state, become U+FFFD."""
    return "".join("\ufffd" if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 else c for c in text)


def wide_console(width: int) -> Console:
    """A console of standard output, in a file at least `width` columns wide, so that no table is cut off."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, width)
    return console
