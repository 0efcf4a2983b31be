"""The judges of `wavefold.quality.worth` against cases made by hand, each of which says no as well as yes."""

from __future__ import annotations

import ast
import random

import pytest

from wavefold.data.corpus import Document
from wavefold.data.exercises.functions import Function
from wavefold.data.exercises.rewrites import annotate, docstring, rename
from wavefold.quality.worth import sources
from wavefold.quality.worth.judges import is_filling, is_next_line, parses, stops
from wavefold.quality.worth.sources import sources_of, window

HEAD = "    def half(self, n):\n        self.n = n"
SOURCE = 'def scale(size: int, by=2):\n    """Scale a size."""\n    return size * size'
TEXT = '''import os


class Box:
    def half(self, size):
        """Return half."""
        self.size = size // 2
        if self.size > 3:
            print(self.size, file=other)

        return self.size
'''


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\n        return n // 2\n", True),
        ("\n        return n // 2\n    def next(self):\n        this is no python\n", True),  # another function
        ("\n        if n:\n            return 1\n        retu", True),  # cut at its last whole line
        ("\n        return (n // 2\n\n", False),
        ("\n          return n\n      return n\n", False),
        ("\n        return", False),  # no whole line
        ("\n\n    \n", False),
        ("", False),
    ],
)
def test_functions_parse(answer: str, expected: bool) -> None:
    assert parses(HEAD, answer) is expected
    assert parses(f"{HEAD}\n", answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\n    return 1\n", True),
        ("\n\n    return 1\n    more", True),
        ("\n    return 1", None),
        ("\n    ret", None),
        ("", None),
        ("\n  return 1\n", False),
        ("\n    return 12\n", False),
        ("\n    yield", False),
        (" + 2\n    return 1\n", False),
    ],
)
def test_next_lines(answer: str, expected: bool | None) -> None:
    assert is_next_line(answer, "    return 1") is expected


@pytest.mark.parametrize(
    ("answer", "ended", "expected"),
    [
        ("x = 1\n    ", True, True),
        ("x = 1", True, True),
        ("x = 1", False, False),
        ("x = 12", True, False),
        (" x = 1", True, False),
        ("", True, False),
    ],
)
def test_holes(answer: str, ended: bool, expected: bool) -> None:
    assert is_filling(answer, ended, "x = 1\n    ") is expected


def test_answers_stop() -> None:
    assert stops("Yes.", "eos") and stops("Yes.", "stop")
    assert not stops("Yes, yes", "length") and not stops(" \n", "eos") and not stops("Yes.", "error")


def test_a_rename_is_that_and_nothing_else() -> None:
    source = SOURCE.replace("Scale a size.", "Square.")
    case = rename(Function("", source, source), random.Random(0))
    assert case is not None and source in case.question
    new = ast.parse(case.answer).body[0].args.args[0].arg  # type: ignore[attr-defined]
    head, body = f"def scale({new}: int, by=2):", f'\n    """Square."""\n    return {new} * {new}'
    for right in (head + body, f"Here:\n```\n{head}  # renamed{body}\n```\nDone."):
        assert case.check(right)
    wrong = [source, head.replace("by=2", "by=3") + body, head.replace("by", "times") + body, f"{head}{body}\nprint(1)",
             head.replace(new, "size") + body, head + body.replace(f"* {new}", "* size"), head, head[:-4], "", new,
             head.replace(": int", "") + body]  # fmt: skip
    assert [case.check(answer) for answer in wrong] == [False] * len(wrong)


def test_an_annotation_is_that_and_nothing_else() -> None:
    case = annotate(Function("", SOURCE, SOURCE), random.Random(0))
    assert case is not None and SOURCE.replace(": int", "") in case.question and case.check(SOURCE)
    heads = ["size, by=2", "size: str, by=2", "size, by: int=2", "size: int, by: int=2", "size: int, by", "size: int"]
    for head in heads:
        assert not case.check(SOURCE.replace("size: int, by=2", head)), head


def test_a_docstring_is_one_sentence_at_its_place() -> None:
    case = docstring(Function("", SOURCE, SOURCE), random.Random(0))
    assert case is not None and '"""' not in case.question
    said = '    """Scale a size."""\n'
    assert case.check(SOURCE) and case.check(SOURCE.replace(said, "    'Return the square.'\n"))
    for wrong in ("", '    """ """\n', "    # Scale a size.\n", said * 2, f"{said}    size += 1\n"):
        assert not case.check(SOURCE.replace(said, wrong)), wrong
    assert not case.check(SOURCE.replace(said, "") + "\n" + said)


def test_cases_of_a_file() -> None:
    (file,) = sources_of([Document("box.py", TEXT), Document("no.py", "def"), Document("read.md", "x = 1\n")])
    (head,) = sources.heads(file)
    assert head.head.endswith("self.size = size // 2") and TEXT.startswith(head.before + head.head + "\n")
    lines = sources.next_lines(file)
    assert [case.line for case in lines] == [line for line in TEXT.split("\n")[5:] if line.strip()]
    assert all(TEXT.startswith(case.before) and case.before == case.before.rstrip() for case in lines)
    holes = [*sources.line_holes(file), *sources.span_holes(file, 0)]
    assert {hole.kind for hole in holes} == {"line", "span"}
    assert all(hole.before + hole.middle + hole.after == TEXT and hole.middle.strip() for hole in holes)
    assert all("\n" not in hole.middle for hole in holes if hole.kind == "span")
    assert sources.places(file, 60) and all(text in TEXT for text in sources.places(file, 60))
    ast.parse(TEXT)
    with pytest.raises(ValueError, match="no Python"):
        sources_of([Document("read.md", "x = 1\n")])


def test_windows_of_neighbours_begin_alike() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    ends = [end for end in range(1, len(text)) if text[end - 1] == "\n"]
    windows = [window(text[:end], 500) for end in ends]
    assert all(text[:end].endswith(one) for end, one in zip(ends, windows, strict=True))
    assert all(500 <= len(one) < 1010 for end, one in zip(ends, windows, strict=True) if end > 500)
    assert len({one[:20] for one in windows}) <= len(text) / 500 + 3
