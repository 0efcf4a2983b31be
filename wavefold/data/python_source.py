"""Python sources as trees. They are parsed, never run."""

from __future__ import annotations

import ast
import warnings

from wavefold.data.corpus import Document

INVALID = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises about texts."""


def parsed(source: str) -> ast.Module:
    """Returns the tree of a source, without warnings of old escapes. Raises one of `INVALID`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def parses(source: str) -> bool:
    """True if this Python parses a source."""
    try:
        parsed(source)
    except INVALID:
        return False
    return True


def python_of(document: Document) -> tuple[str, ast.Module] | None:
    r"""Returns a document's text with "\n" as its only line break, and its tree. None if it is not Python."""
    if not document.name.endswith(".py"):
        return None
    text = document.text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        return text, parsed(text)
    except INVALID:
        return None
