"""The judges of `wavefold.quality.worth` against cases made by hand, each of which says no as well as yes."""

from __future__ import annotations

import ast

import pytest

from wavefold.data.corpus import Document
from wavefold.quality.worth import sources
from wavefold.quality.worth.judges import is_filling, is_next_line, parses, stops
from wavefold.quality.worth.rewrites import KINDS, Rewrite, code_of, is_rewritten, rewrites
from wavefold.quality.worth.sources import python_of, window

HEAD = "    def half(self, n):\n        self.n = n"
SOURCE = "def scale(size, by=2):\n    total = size * by\n    return total"
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


@pytest.mark.parametrize(
    ("case", "right", "wrong"),
    [
        (
            Rewrite("rename", SOURCE, "size", "number"),
            ["def scale(number, by=2):\n    total = number * by\n    return total",
             "Here:\n```\ndef scale(number,\n    by=2):  # renamed\n    total = number * by\n    return total\n```"],
            [SOURCE, "def scale(number, by=2):\n    total = size * by\n    return total",
             "def scale(number, by=3):\n    total = number * by\n    return total",
             "def scale(number, by=2):\n    total = number * by\n    return total\nprint(1)",
             "def scale(size, by=2):\n    total = number * by\n    return total",
             "def scale(number, by=2", "", "number"],
        ),
        (
            Rewrite("annotate", SOURCE, "by", "int"),
            ["def scale(size, by: int = 2):\n    total = size * by\n    return total"],
            [SOURCE, "def scale(size, by: str = 2):\n    total = size * by\n    return total",
             "def scale(size: int, by=2):\n    total = size * by\n    return total",
             "def scale(size, by: int):\n    total = size * by\n    return total"],
        ),
        (
            Rewrite("docstring", SOURCE),
            [SOURCE.replace("\n", '\n    """Scale it."""\n', 1), SOURCE.replace("\n", "\n    'Scale it.'\n", 1)],
            [SOURCE, SOURCE.replace("\n", '\n    """ """\n', 1), SOURCE.replace("\n", "\n    # Scale it.\n", 1),
             SOURCE.replace("\n", '\n    """Scale it."""\n', 1).replace("total", "sum"),
             SOURCE.replace("\n", '\n    """Scale it."""\n    """Twice."""\n', 1)],
        ),
    ],
    ids=KINDS,
)  # fmt: skip
def test_rewrites(case: Rewrite, right: list[str], wrong: list[str]) -> None:
    assert [is_rewritten(case, answer) for answer in right] == [True] * len(right)
    assert [is_rewritten(case, answer) for answer in wrong] == [False] * len(wrong)
    assert case.source in case.question


def test_code_of_an_answer() -> None:
    assert code_of("x = 1") == "x = 1" and code_of("So:\n```\n  x = 1\n```\nand\n```\ny\n```") == "x = 1\n"


def test_rewrites_of_a_file_can_be_done_rightly() -> None:
    """Done here by text, since `changed` works on trees."""
    (file,) = python_of([Document("box.py", TEXT)])
    (rename,), (annotate,), (docstring,) = (list(rewrites(file, kind, 0)) for kind in KINDS)
    assert rename.parameter == annotate.parameter == "size" and not docstring.parameter
    right = rename.source.replace("size)", f"{rename.change})", 1).replace("= size", f"= {rename.change}")
    assert is_rewritten(rename, right) and not is_rewritten(rename, rename.source)
    assert is_rewritten(annotate, annotate.source.replace("size)", f"size: {annotate.change})", 1))
    assert '"""' not in docstring.source
    assert is_rewritten(docstring, docstring.source.replace("size):", 'size):\n    """Half."""', 1))


@pytest.mark.parametrize(
    "body",
    ["    f = lambda n: n\n    return f(n)", "    def n(): ...\n    return n", "    import n\n    return n",
     "    x = locals()\n    return x", "    global n2\n    n2 = n",
     "    try:\n        n()\n    except E as n:\n        pass"],
)  # fmt: skip
def test_functions_in_which_a_name_means_several_things_are_not_asked_about(body: str) -> None:
    (file,) = python_of([Document("f.py", f"def f(n):\n    a = n\n{body}\n")])
    assert not list(rewrites(file, "rename", 0))


def test_cases_of_a_file() -> None:
    (file,) = python_of([Document("box.py", TEXT), Document("no.py", "def"), Document("read.md", "x = 1\n")])
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
        python_of([Document("read.md", "x = 1\n")])


def test_windows_of_neighbours_begin_alike() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    ends = [end for end in range(1, len(text)) if text[end - 1] == "\n"]
    windows = [window(text[:end], 500) for end in ends]
    assert all(text[:end].endswith(one) for end, one in zip(ends, windows, strict=True))
    assert all(500 <= len(one) < 1010 for end, one in zip(ends, windows, strict=True) if end > 500)
    assert len({one[:20] for one in windows}) <= len(text) / 500 + 3
