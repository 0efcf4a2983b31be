"""Rewrites that a program can check: a parameter renamed or annotated, a docstring added, in real functions.

source -> question, answer -> the answer's code -> `ast` -> the same program as the source with the change?

Comments and layout are free. The docstring's text is free too, as long as it says something.
"""

from __future__ import annotations

import ast
import copy
import random
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from wavefold.quality.worth.sources import Function, Source

FEWEST_LINES, MOST_LINES = 3, 15
NAMES = ("value", "item", "source", "target", "entry", "number", "text", "data", "result", "other")
TYPES = ("int", "str", "bytes", "float", "list", "dict", "bool", "object")
KINDS = ("rename", "annotate", "docstring")
BY_NAME = {"locals", "vars", "globals", "eval", "exec", "dir"}
"""Calls that see the names of variables."""
FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


class Rewrite(NamedTuple):
    """A question about `source`, a function. `parameter`: the one in question; `change`: its new name or its type."""

    kind: str
    source: str
    parameter: str = ""
    change: str = ""

    @property
    def question(self) -> str:
        asked = {
            "rename": f"Rename the parameter `{self.parameter}` to `{self.change}`:",
            "annotate": f"Annotate the parameter `{self.parameter}` with the type `{self.change}`:",
            "docstring": "Add a docstring to this function:",
        }[self.kind]
        return f"{asked}\n\n```python\n{self.source}\n```"

    def check(self, answer: str) -> bool:
        """True if the answer's code is the source with the change that was asked for, and nothing else."""
        return is_rewritten(self, answer)


def rewrites(source: Source, kind: str, seed: int) -> Iterator[Rewrite]:
    """Yields a rewrite of each short function of a file that allows one, by file, function and seed alone."""
    for node in source.functions():
        text = _dedented(source, node)
        function = None if text is None else _function(text)
        if text is None or function is None or _has_others(function):
            continue
        draw = random.Random(f"{seed} {kind} {source.name} {node.lineno}")
        if kind == "docstring":
            if (stripped := _without_docstring(text, function)) is not None:
                yield Rewrite(kind, stripped)
            continue
        parameters = [one.arg for one in _parameters(function) if one.arg not in ("self", "cls") and not one.annotation]
        if not parameters:
            continue
        parameter, names = draw.choice(parameters), _names(function)
        choices = [name for name in NAMES if name not in names] if kind == "rename" else TYPES
        if choices:
            yield Rewrite(kind, text, parameter, draw.choice(choices))


def is_rewritten(case: Rewrite, answer: str) -> bool:
    """True if the answer's code is the source with the change that was asked for, and nothing else."""
    source, function = _function(case.source), _function(code_of(answer))
    assert source is not None
    if function is None:
        return False
    if case.kind == "docstring":
        if not (ast.get_docstring(function) or "").strip():
            return False
        function.body = function.body[1:]
        return _same(source, function)
    return _same(changed(source, case), function)


def changed(source: Function, case: Rewrite) -> Function:
    """Returns a function with a parameter renamed or annotated."""
    function = copy.deepcopy(source)
    for one in _parameters(function):
        if one.arg == case.parameter and case.kind == "annotate":
            one.annotation = ast.Name(case.change, ast.Load())
        elif one.arg == case.parameter:
            one.arg = case.change
    for node in ast.walk(function) if case.kind == "rename" else ():
        if isinstance(node, ast.Name) and node.id == case.parameter:
            node.id = case.change
    return function


def code_of(answer: str) -> str:
    """Returns the first fenced block of an answer, or all of it."""
    fenced = FENCE.search(answer)
    return textwrap.dedent(fenced[1] if fenced else answer)


def _same(one: Function, other: Function) -> bool:
    return ast.dump(one) == ast.dump(other)


def _function(text: str) -> Function | None:
    """Returns the one function that a text is, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return body[0] if len(body) == 1 and isinstance(body[0], Function) else None


def _parameters(function: Function) -> list[ast.arg]:
    arguments = function.args
    rest = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def _names(function: Function) -> set[str]:
    """All names in a function: a new one is none of them."""
    found = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return found | {one.arg for one in _parameters(function)}


def _has_others(function: Function) -> bool:
    """True for functions in which a name may mean several things, is looked up by its text, or is no `ast.Name`."""
    scopes = Function | ast.ClassDef | ast.Lambda | ast.Global | ast.Nonlocal
    for node in ast.walk(function):
        if isinstance(node, scopes) and node is not function:
            return True
        if isinstance(node, ast.Name) and node.id in BY_NAME:
            return True
        if isinstance(node, ast.alias | ast.Match) or (isinstance(node, ast.ExceptHandler) and node.name):
            return True
    return False


def _dedented(source: Source, node: Function) -> str | None:
    """Returns a function's source without decorators, or None if it is long, short or cannot be dedented."""
    lines = source.lines[node.lineno - 1 : node.end_lineno]
    blank = " " * node.col_offset
    if not FEWEST_LINES <= len(lines) <= MOST_LINES:
        return None
    if not all(line.startswith(blank) or not line.strip() for line in lines):
        return None
    return "\n".join(line[node.col_offset :].rstrip() for line in lines)


def _without_docstring(text: str, function: Function) -> str | None:
    """Returns the source without its docstring; None where there is none, or nothing else."""
    if not ast.get_docstring(function) or len(function.body) < 2:
        return None
    docstring = function.body[0]
    lines = text.split("\n")
    stripped = "\n".join([*lines[: docstring.lineno - 1], *lines[docstring.end_lineno :]])
    left = _function(stripped)
    return stripped if left is not None and not ast.get_docstring(left) else None
