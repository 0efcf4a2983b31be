"""Text for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could change its state, become U+FFFD."""
    return "".join("\ufffd" if (ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 else c for c in text)
