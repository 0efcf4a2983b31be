"""Functions of documents that stand alone: short, with a body, moved to the margin."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wavefold.data.corpus import Document
from wavefold.data.python_source import parsed, python_of

MIN_LINES, MAX_LINES = 4, 24
MAX_WIDTH = 100
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function's source without decorators. `place`: name of the document and full name. `module`: its whole text."""

    place: str
    source: str
    module: str

    @property
    def lines(self) -> list[str]:
        return self.source.split("\n")

    def tree(self) -> Definition:
        """Returns a new tree of the function; its lines and columns are those of `source`."""
        (node,) = parsed(self.source).body
        assert isinstance(node, Definition)
        return node


def functions(documents: Sequence[Document]) -> Iterator[Function]:
    """Yields the functions and methods of Python documents in their order. Of equal sources the first comes alone."""
    seen: set[str] = set()
    for document in documents:
        if (python := python_of(document)) is None:
            continue
        text, tree = python
        lines = text.split("\n")
        for path, node in _within(tree, ""):
            source = _alone(node, lines)
            if source is not None and source not in seen:
                seen.add(source)
                yield Function(f"{document.name} {path}", source, text)


def _within(node: ast.Module | ast.ClassDef, path: str) -> Iterator[tuple[str, Definition]]:
    for child in node.body:
        if isinstance(child, Definition):
            yield f"{path}{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _within(child, f"{path}{child.name}.")


def _alone(node: Definition, lines: list[str]) -> str | None:
    """Returns the source at the margin, or None if it is long, short, wide, not ASCII, or does not stand alone."""
    block = lines[node.lineno - 1 : node.end_lineno]
    if not MIN_LINES <= len(block) <= MAX_LINES:
        return None
    source = textwrap.dedent("\n".join(line.rstrip() for line in block))
    if not source.isascii() or "\t" in source or "\\" in source or max(map(len, source.split("\n"))) > MAX_WIDTH:
        return None
    try:
        body = parsed(source).body
    except (SyntaxError, ValueError):
        return None
    whole = isinstance(body[0], Definition) and len(body) == 1 and body[0].col_offset == 0
    return source if whole and len(node.body) > 1 else None
