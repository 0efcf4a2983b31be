"""Names and sizes of the source: locals are nouns, files and functions fit on some screens (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = frozenset(
    ("some", "mine", "made", "given", "facts", "each", "theirs", "what", "own", "held", "apart")
)  # fmt: skip
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
SOURCES = sorted((ROOT / "wavefold").rglob("*.py"))


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of all that is bound: variables, parameters, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def problems(source: str) -> list[str]:
    """What breaks a rule in one file."""
    tree = ast.parse(source)
    found = [f"line {line}: {name} is no noun" for line, name in names(tree) if name.lstrip("_") in FORBIDDEN]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                found.append(f"line {node.lineno}: {node.name} has {lines} lines, expected {MOST_FUNCTION_LINES}")
    if (lines := len(source.splitlines())) > MOST_LINES:
        found.append(f"{lines} lines, expected {MOST_LINES}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_and_sizes(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    ["def f(given): ...", "some = 1", "class A:\n    held: int", "def f():\n    self.made = 1", "for each in []: ...",
     "x = 1\n" * 401, "def f():\n" + "    x = 1\n" * 60],
)  # fmt: skip
def test_breaches_are_seen(source: str) -> None:
    assert problems(source)
