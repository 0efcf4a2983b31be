"""Cases out of held-out Python: functions to complete, lines and holes to fill, places to go on from.

Sources are parsed, never run. Cases are cut by characters, not by tokens, so that models with different tokenizers get
the same ones. A hole begins and ends where every tokenizer of this project may cut: at a line's first sign, or after a
word.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from wavefold.data.corpus import Document
from wavefold.data.python_source import python_of

LEAST_STATEMENTS = 3
"""Of a function that is to be completed, docstring aside."""
MOST_HOLE = 40
"""Characters of a hole within a line."""
BEFORE, BEFORE_HOLE, AFTER_HOLE = 1536, 1024, 512
"""Characters that a model reads before a case (to twice as many), and before and after a hole."""

Case = TypeVar("Case")
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """A file that parses; `text` has line feeds alone, and `lines` are its parts between them."""

    name: str
    text: str
    lines: list[str]
    tree: ast.Module

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def inner_lines(self) -> list[int]:
        """Numbers, from 0, of the lines of functions that are not empty, without the functions' first ones."""
        inside: set[int] = set()
        for node in self.functions():
            inside |= set(range(node.lineno, node.end_lineno or node.lineno))
        return [number for number in sorted(inside) if self.lines[number].strip()]


class Head(NamedTuple):
    """The end of the text before a function, and the function up to the end of its first statement's line."""

    before: str
    head: str


class NextLine(NamedTuple):
    """The end of the text before a line, without blanks at its end, and the line."""

    before: str
    line: str


class Hole(NamedTuple):
    """A hole, in which `middle` stood, with the text around it. `kind`: "line" or "span"."""

    kind: str
    before: str
    middle: str
    after: str


def sources_of(documents: Sequence[Document]) -> list[Source]:
    """Returns the documents that are Python. Raises ValueError if there are none."""
    found = []
    for document in documents:
        if (python := python_of(document)) is not None:
            text, tree = python
            found.append(Source(document.name, text, text.split("\n"), tree))
    if not found:
        raise ValueError(f"{len(documents)} held-out documents hold no Python; expected some to make cases of")
    return found


def drawn(cases: Sequence[Case], num: int, seed: int | str, in_order: bool = False) -> list[Case]:
    """Returns `num` of the cases, or all if there are fewer; `in_order`: as they stand."""
    chosen = random.Random(seed).sample(range(len(cases)), min(num, len(cases)))
    return [cases[number] for number in (sorted(chosen) if in_order else chosen)]


def window(before: str, size: int) -> str:
    """The last `size` to 2 * `size` characters of a text, whole lines, or all of it if it is shorter.

    Texts that go on a little further have windows that begin at the same place: the engine reads that once.
    """
    place = max(0, len(before) // size - 1) * size
    return before[before.rfind("\n", 0, place) + 1 if place else 0 :]


def heads(source: Source) -> list[Head]:
    """The functions of three statements or more."""
    found = []
    for node in source.functions():
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        if len(body) >= LEAST_STATEMENTS and body[0].end_lineno is not None:
            before, head = source.lines[:first], source.lines[first : body[0].end_lineno]
            found.append(Head(window("".join(f"{line}\n" for line in before), BEFORE), "\n".join(head)))
    return found


def next_lines(source: Source) -> list[NextLine]:
    """The lines of functions, their first ones left out."""
    return [
        NextLine(window("\n".join(source.lines[:number]), BEFORE).rstrip(), source.lines[number])
        for number in source.inner_lines()
    ]


def line_holes(source: Source) -> Iterator[Hole]:
    """A line of a function from its first sign up to the first sign of the next one."""
    for number in source.inner_lines():
        line, following = source.lines[number], source.lines[number + 1 : number + 2]
        if not following or not following[0].strip():
            continue
        begin, end = _indentation(line), _indentation(following[0])
        middle = f"{line[begin:]}\n{following[0][:end]}"
        before = "\n".join([*source.lines[:number], line[:begin]])
        after = "\n".join([following[0][end:], *source.lines[number + 2 :]])
        yield Hole("line", window(before, BEFORE_HOLE), middle, _beginning(after))


def span_holes(source: Source, seed: int) -> Iterator[Hole]:
    """A part of a line of a function, from after a word up to the end of another one."""
    for number in source.inner_lines():
        line = source.lines[number]
        ends = [match.end() for match in re.finditer(r"\w+", line)]
        spans = [(a, b) for a in ends for b in ends if 2 < b - a <= MOST_HOLE]
        if spans:
            begin, end = random.Random(f"{seed} {source.name} {number}").choice(spans)
            before = "\n".join([*source.lines[:number], line[:begin]])
            after = "\n".join([line[end:], *source.lines[number + 1 :]])
            yield Hole("span", window(before, BEFORE_HOLE), line[begin:end], _beginning(after))


def places(source: Source, size: int) -> list[str]:
    """Texts of about `size` characters, whole lines, each of which ends with a line of a function."""
    found = []
    for number in source.inner_lines():
        text = "\n".join(source.lines[: number + 1])
        if len(text) > size:
            found.append(text[text.find("\n", len(text) - size - 1) + 1 :])
    return [text for text in found if len(text) > size // 2]


def _beginning(after: str) -> str:
    """The first whole lines of a text, of `AFTER_HOLE` characters or a little more."""
    end = after.find("\n", AFTER_HOLE)
    return after if end < 0 else after[: end + 1]


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
