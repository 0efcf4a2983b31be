"""Exercises from functions: their answers are right, other answers are not, and nothing of a source runs."""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wavefold.data.batches import IGNORED, Batches
from wavefold.data.chat_data import checked_chat
from wavefold.data.corpus import Document, load_corpus
from wavefold.data.exercises import errors, rewrites
from wavefold.data.exercises.exercise import Exercise, code_of
from wavefold.data.exercises.functions import Function, functions
from wavefold.data.exercises.make import exercises
from wavefold.locate import DEFAULT_MODEL
from wavefold.train.texts import read_text
from wavefold.waves.group import Group

SOURCE = '''
raise SystemExit("never run")

class Basket:
    def weigh(self, apples: int, scale, unit=None) -> float:
        """Return the weight of apples.

        The scale says how."""
        weight = scale(apples, unit)
        if weight == 0:
            raise ValueError("no apples")
        return weight


def total(prices, tax=0):
    # no docstring
    result = sum(prices, tax)
    return result
'''
WEIGH, TOTAL = functions([Document("shop.py", SOURCE)])


def dice(seed: int = 0) -> random.Random:
    return random.Random(seed)


def test_functions_stand_at_the_margin() -> None:
    assert [f.place for f in (WEIGH, TOTAL)] == ["shop.py Basket.weigh", "shop.py total"]
    assert WEIGH.source.startswith("def weigh(self, apples: int") and WEIGH.source.endswith("    return weight")
    assert TOTAL.tree().name == "total"


@pytest.mark.parametrize(
    "text",
    ["def f():\n    return 1\n", "def f():\n    a = 1\n" + "    b = 2\n" * 24, "def f(:\n",
     "def f(x):\n    a = 'ä'\n    b = 1\n    c = 2\n", "def f(x):\n    a = 1\n    b = 2 \\\n        + 3\n",
     f"def f(x):\n    a = 1\n    b = {'x' * 100}\n    c = 1\n",
     'class A:\n    def f(x):\n        a = """\nleft\n"""\n        return a\n'],
)  # fmt: skip
def test_what_cannot_stand_alone_is_left_out(text: str) -> None:
    assert not list(functions([Document("a.py", text), Document("a.md", SOURCE)]))


def test_equal_functions_come_once() -> None:
    assert len(list(functions([Document("a.py", SOURCE), Document("b.py", SOURCE)]))) == 2


def test_a_rename_reaches_every_use() -> None:
    exercise = rewrites.rename(TOTAL, dice())
    assert exercise is not None
    asked = re.search(r"`(\w+)`.*`(\w+)`", exercise.question)
    assert asked is not None
    old, new = asked.groups() if exercise.question.startswith("Rename") else asked.groups()[::-1]
    assert exercise.answer == re.sub(rf"\b{old}\b", new, TOTAL.source)
    assert exercise.check(exercise.answer) and exercise.check(f"```python\n{exercise.answer}\n```")
    assert not exercise.check(TOTAL.source) and not exercise.check(exercise.answer.replace(new, old, 1))
    assert exercise.check(exercise.answer.replace("# no docstring", "# a comment"))


@pytest.mark.parametrize(
    "body",
    ["return [apples for apples in apples]", "return lambda apples: apples", "return locals()", "return f'{apples}'",
     "global apples", "import apples", "return weigh(apples=apples)", "'Return apples.'\n    return apples",
     "def inner(apples):\n        return apples\n    return inner(apples)",
     "try:\n        return apples\n    except OSError as apples:\n        return 1"],
)  # fmt: skip
def test_a_name_that_could_be_another_variable_keeps_its_name(body: str) -> None:
    source = f"def weigh(apples):\n    {body}"
    assert rewrites.rename(Function("a", source, source), dice()) is None


def test_a_default_is_outside_of_the_function() -> None:
    source = "def weigh(apples, pears=apples):\n    return apples"
    assert rewrites.places_of(Function("a", source, source).tree(), "apples") == []
    assert rewrites.places_of(Function("a", source, source).tree(), "pears") == [(1, 18)]


def test_the_keyword_of_another_function_stays() -> None:
    source = "def weigh(apples):\n    return scale(apples=apples)"
    exercise = rewrites.rename(Function("a", source, source), dice())
    assert exercise is not None and "scale(apples=" in exercise.answer and exercise.check(exercise.answer)


def test_an_annotation_is_asked_for() -> None:
    seen = set()
    for seed in range(20):
        exercise = rewrites.annotate(WEIGH, dice(seed))
        assert exercise is not None and exercise.answer == WEIGH.source and exercise.check(WEIGH.source)
        bare = exercise.question.partition("\n\n")[2]
        assert not exercise.check(bare) and not exercise.check(
            WEIGH.source.replace("int", "str").replace("float", "str")
        )
        seen.add(bare.split("\n")[0])
    assert seen == {
        "def weigh(self, apples, scale, unit=None) -> float:",
        "def weigh(self, apples: int, scale, unit=None):",
    }
    assert rewrites.annotate(TOTAL, dice()) is None


@pytest.mark.parametrize("maker", [rewrites.rename, rewrites.annotate, rewrites.docstring])
def test_fences_in_a_docstring_are_no_code(maker: Callable[[Function, random.Random], Exercise | None]) -> None:
    """As in httpx's and mkdocs' docstrings."""
    fenced = '    """Return the price of apples.\n\n    ```python\n    y = 1\n    ```\n    """\n'
    source = f"def price(kilos: int) -> int:\n{fenced}    return kilos * kilos"
    exercise = maker(Function("a", source, source), dice())
    assert exercise is not None
    bare = exercise.question.partition("\n\n")[2]
    for around in ("{}", "```\n{}\n```", "So:\n\n```python\n{}\n```\nThat is all."):
        assert exercise.check(around.format(exercise.answer)) and not exercise.check(around.format(bare))
    assert not exercise.check(exercise.answer.replace("return ", "return 1 + ")) and not exercise.check("")


def test_a_docstring_is_asked_for_and_any_sentence_is_right() -> None:
    exercise = rewrites.docstring(WEIGH, dice())
    assert exercise is not None and exercise.answer == WEIGH.source
    assert "Return the weight" not in exercise.question and "says how" not in exercise.question
    assert exercise.check(WEIGH.source) and exercise.check(
        WEIGH.source.replace("Return the weight of", "Weigh all the")
    )
    bare = exercise.question.partition("\n\n")[2]
    for wrong in (bare, WEIGH.source.replace("== 0", "== 1"), WEIGH.source + "\nx = 1", "def f(:", "", "a\0",
                  bare.replace("\n", '\n    """No."""\n', 1)):  # fmt: skip
        assert not exercise.check(wrong)
    assert rewrites.docstring(TOTAL, dice()) is None


@pytest.mark.parametrize(
    ("kind", "number", "line", "said"),
    [("colon", 0, "def total(prices, tax=0)", "SyntaxError: expected ':'"),
     ("bracket", 2, "    result = sum(prices, tax", "SyntaxError: '(' was never closed"),
     ("other bracket", 2, "    result = sum(prices, tax]",
      "SyntaxError: closing parenthesis ']' does not match opening parenthesis '('"),
     ("comma", 2, "    result = sum(prices tax)", "SyntaxError: invalid syntax. Perhaps you forgot a comma?"),
     ("indent", 3, "      return result", "IndentationError: unexpected indent")],
)  # fmt: skip
def test_errors_are_those_that_python_reports(kind: str, number: int, line: str, said: str) -> None:
    """Held against compile()'s message, and against the line that was there."""
    exercise = errors.broken(TOTAL, number, kind, dice())
    assert exercise is not None
    source = exercise.question.partition("\n\n")[2]
    assert source.split("\n")[number] == line
    with pytest.raises(SyntaxError) as caught:
        compile(source, "a", "exec")
    assert f"{type(caught.value).__name__}: {caught.value.msg}" == said and f"`{said}`" in exercise.answer
    assert caught.value.lineno == number + 1
    assert exercise.answer.startswith(f"Line {number + 1}: ") and exercise.answer.endswith(TOTAL.lines[number].strip())


@pytest.mark.parametrize("kind", [*errors.SYNTAX, "name"])
def test_every_kind_of_fault_has_a_remedy(kind: str) -> None:
    source = "def weigh(apples, scale):\n    weight = scale(apples, 2)\n    if weight == 0:\n"
    source += '        raise Scale("empty")\n    return weight'
    function = Function("a", source, source)
    maker = errors.misspelt if kind == "name" else lambda *args: errors.broken(*args[:2], kind, args[2])
    found = [(number, exercise) for number in range(5) if (exercise := maker(function, number, dice()))]
    assert found, kind
    for number, exercise in found:
        assert exercise.kind == kind and exercise.check(exercise.answer)
        wrong_line = exercise.answer.replace(f"Line {number + 1}", f"Line {number + 2}")
        wrong_error = exercise.answer.replace("Error:", "Mistake:")
        faulty = exercise.question.split("\n")[number + 2].strip()
        unmended = exercise.answer.rpartition("\n")[0] + "\n" + faulty
        if kind == "indent":  # the line itself is right, its indentation is not
            unmended = ""
        for wrong in (wrong_line, wrong_error, unmended, exercise.answer + "\n    return 2", source, ""):
            assert not exercise.check(wrong)


def test_a_name_that_something_defines_is_no_fault() -> None:
    assert errors.unbound_names("def f(a):\n    return a + b + len(a) + g()\ndef g(): ...") == {"b"}
    assert errors.unbound_names("def f():\n    x = 1\n    def g():\n        return x + y") == {"y"}
    source = "def f(prices):\n    a = prices\n    b = prices\n    return prices"
    with_other = Function("a", source, "pirces prcies pricse priecs rpices " + source)
    assert errors.misspelt(with_other, 3, dice()) is None


def test_a_fault_that_is_valid_python_is_no_exercise() -> None:
    source = "def f(a):\n    b = a\n    return (1)[0]"
    assert errors.broken(Function("a", source, source), 1, "comparison", dice()) is None
    assert errors.syntax_error(source) is None


def test_the_same_documents_and_seed_give_the_same_exercises() -> None:
    documents = [Document("shop.py", SOURCE), Document("b.py", SOURCE.replace("apples", "pears"))]

    def asked(seed: int, num: int | None = None) -> list[tuple[str, str]]:
        return [(e.question, e.answer) for e in exercises(documents, seed, num)]

    assert asked(1) == asked(1) != asked(2) and asked(1)[:2] == asked(1, 2)
    with pytest.raises(ValueError, match="1 documents hold no function that can be asked about"):
        exercises([Document("a.py", "x = 1")], 0)


def test_a_check_never_raises() -> None:
    exercise = Exercise("rename", "", "", lambda text: ast.parse(code_of(text)) is None)
    for text in ("(" * 5000, "\0", "def", "```python\nx\n", "x = " + "-" * 100_000 + "1"):
        assert exercise.check(text) is False


def test_the_standard_library_makes_exercises_that_check() -> None:
    try:
        corpus = load_corpus("stdlib")
    except ValueError as error:
        pytest.skip(str(error))
    found = exercises(corpus.held_out, 0, 300)
    kinds = {exercise.kind for exercise in found}
    assert len(found) == 300 and {"rename", "docstring", "colon", "bracket", "indent", "name"} <= kinds
    for exercise, other in itertools.pairwise(found):
        checked_chat(exercise.chat, "here")
        assert exercise.check(exercise.answer) and not exercise.check(other.answer)
    texts = "".join(document.text for document in corpus.held_out)
    assert all(line.strip() in texts for e in found for line in e.answer.split("\n") if e.kind == "docstring")


def test_a_run_can_be_told_to_ask(tmp_path: Path) -> None:
    """`--data exercises:FOLDER`: chats, of which answers are learned."""
    for number in range(30):
        (tmp_path / f"m{number}.py").write_text(
            SOURCE.replace("apples", f"apples{number}").replace("total", f"t{number}")
        )
    text = read_text(f"exercises:{tmp_path}", tmp_path, 3072, DEFAULT_MODEL, Group(), 1024)
    assert len(text.train) + len(text.held_out) > 30 and not text.held_out_text
    pieces = Batches(text.train, 0, lambda step: (64, 512))(0)
    assert 0 < int((pieces.targets != IGNORED).sum()) < len(pieces.targets)
