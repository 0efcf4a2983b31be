"""Chats out of sources: what is asked and answered, of what, and always the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from wavefold.chat import Tokenizer
from wavefold.data.batches import IGNORED, Batches
from wavefold.data.chat_data import checked_chat
from wavefold.data.corpus import Document, load_corpus
from wavefold.data.instruct import ARGUMENTS, MAX_SOURCE_LINES, PURPOSE, WRITE, instruct_chats
from wavefold.locate import DEFAULT_MODEL
from wavefold.train.texts import read_text
from wavefold.waves.group import Group

SOURCE = '''
"""A module."""
import sys

raise SystemExit("never run")


@first
@second(1)
def add(a, b=2, *rest, key: int = 3, **more) -> int:
    """Return the sum. It is
    exact.

    More of it.
    """
    return a + b


def silent(x):
    return x


class Shape(Base, metaclass=Meta):
    """A shape."""

    def area(self):
        """The area, in square metres"""

        return 0

    async def draw(self, canvas):
        """Draw it."""
        text = """
left
"""
        await canvas.put(text)
'''
DOCUMENT = Document("geometry/__init__.py", SOURCE)


def asked(documents: list[Document], seed: int = 0) -> dict[str, str]:
    """Answers by question, whatever its wording."""
    return {chat[0]["content"]: chat[1]["content"] for chat in instruct_chats(documents, seed)}


def worded(some: tuple[str, ...], answers: dict[str, str], **facts: str) -> str:
    """The answer to the question in one of its wordings."""
    (question,) = {text.format(**facts) for text in some} & set(answers)
    return answers[question]


def test_a_function_is_asked_for_with_its_first_sentence() -> None:
    facts = {"kind": "function", "sentence": "Return the sum.", "signature": "add(a, b=2, *rest, key: int=3, **more)"}
    answer = worded(WRITE, asked([DOCUMENT]), **facts)
    assert answer.startswith("@first\n@second(1)\ndef add(") and answer.endswith("    return a + b")


def test_purpose_is_the_first_paragraph_and_the_name_is_whole() -> None:
    answers = asked([DOCUMENT])
    assert worded(PURPOSE, answers, path="geometry.add") == "Return the sum. It is exact."
    assert worded(PURPOSE, answers, path="geometry.Shape") == "A shape."
    assert worded(PURPOSE, answers, path="geometry.Shape.area") == "The area, in square metres"


def test_arguments_are_the_signature() -> None:
    answers = asked([DOCUMENT])
    assert worded(ARGUMENTS, answers, path="geometry.add") == "`add(a, b=2, *rest, key: int=3, **more)`"
    assert worded(ARGUMENTS, answers, path="geometry.Shape.area") == "`area(self)`"
    assert not {text.format(path="geometry.Shape") for text in ARGUMENTS} & set(answers)


def test_methods_are_moved_to_the_margin() -> None:
    facts = {"kind": "method", "sentence": "The area, in square metres", "signature": "area(self)"}
    answer = worded(WRITE, asked([DOCUMENT]), **facts)
    assert answer == 'def area(self):\n    """The area, in square metres"""\n\n    return 0'


def test_what_cannot_be_moved_or_says_nothing_is_left_out() -> None:
    answers = asked([DOCUMENT])
    assert not any("silent" in question for question in answers)
    assert not any("`draw(self, canvas)`" in question for question in answers)  # "left" stands left of the margin
    assert worded(PURPOSE, answers, path="geometry.Shape.draw") == "Draw it."
    assert len(answers) == 3 + 3 + 2 + 2  # add, area; draw without its source; Shape without arguments


@pytest.mark.parametrize("num_lines", [MAX_SOURCE_LINES - 1, MAX_SOURCE_LINES])
def test_long_sources_are_not_asked_for(num_lines: int) -> None:
    body = "".join(f"    x{i} = {i}\n" for i in range(num_lines - 2))
    answers = asked([Document("m.py", f'def f():\n    """Do it."""\n{body}')])
    assert any("`f()`" in question for question in answers) == (num_lines < MAX_SOURCE_LINES)


def test_the_same_documents_and_seed_give_the_same_chats() -> None:
    documents = [DOCUMENT, Document("b.py", SOURCE.replace("add", "plus"))]
    assert instruct_chats(documents, 1) == instruct_chats(documents, 1)
    assert instruct_chats(documents, 1) != instruct_chats(documents, 2)
    alone = [chat for chat in instruct_chats([DOCUMENT], 1) if "geometry." in chat[0]["content"]]
    assert all(chat in instruct_chats(documents, 1) for chat in alone), "wording depends on what is asked about alone"


def test_equal_questions_are_asked_once() -> None:
    twice = [DOCUMENT, Document("geometry/__init__.py", SOURCE.replace("return a + b", "return b + a"))]
    chats = instruct_chats(twice, 0)
    assert len(chats) == len(instruct_chats([DOCUMENT], 0))
    assert not any("return b + a" in chat[1]["content"] for chat in chats)


def test_what_is_no_python_is_left_out() -> None:
    broken = [Document("x.py", "def f(:"), Document("zero.py", "\0"), Document("notes.md", SOURCE),
              Document("deep.py", "(" * 5000 + ")" * 5000)]  # fmt: skip
    assert asked([*broken, DOCUMENT]) == asked([DOCUMENT])
    with pytest.raises(ValueError, match="4 documents hold no Python with docstrings"):
        instruct_chats(broken, 0)


def test_line_ends_and_form_feeds_do_not_move_lines() -> None:
    text = '\f\ndef f():\n    """Do\f it."""\n    x = "\u2028"\n    return x\n'
    expected = asked([Document("m.py", text)])
    assert "    return x" in worded(WRITE, expected, kind="function", signature="f()", sentence="Do it.")
    assert asked([Document("m.py", text.replace("\n", "\r\n"))]) == expected


def test_the_standard_library_makes_chats_that_can_be_learned_from() -> None:
    try:
        corpus = load_corpus("stdlib")
    except ValueError as error:
        pytest.skip(str(error))
    train, held_out = instruct_chats(corpus.train[::20], 0), instruct_chats(corpus.held_out, 0)
    assert len(train) > 500 and len(held_out) > 500
    modules = {d.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for d in corpus.held_out}
    for chat in held_out:
        checked_chat(chat, "here")
        if purpose := re.match(r"(?:What does|What is|Explain) `([^`]*)`(?: do| for|\.)", chat[0]["content"]):
            assert any(purpose[1].startswith(f"{module}.") for module in modules)
    sources = [chat[1]["content"] for chat in held_out if chat[1]["content"].startswith(("def ", "class ", "@"))]
    assert len(sources) > 100
    for source in sources:
        ast.parse(source)


def test_a_run_can_be_told_to_ask(tmp_path: Path) -> None:
    """`--data instruct:FOLDER`: chats, of which answers are learned."""
    for number in range(30):
        (tmp_path / f"m{number}.py").write_text(
            f'def f{number}(x):\n    """Add {number}."""\n    return x + {number}\n'
        )
    text = read_text(f"instruct:{tmp_path}", tmp_path, 3072, DEFAULT_MODEL, Group(), 1024)
    assert len(text.train) + len(text.held_out) == 90 and not text.held_out_text
    pieces = Batches(text.train, 0, lambda step: (64, 512))(0)
    learned = pieces.targets[pieces.targets != IGNORED]
    assert 0 < len(learned) < len(pieces.targets)
    assert "Add" in Tokenizer.load(DEFAULT_MODEL).decode(learned.tolist())
