"""Judges of answers: does a function parse, is a line the right one, is a hole filled."""

from __future__ import annotations

from wavefold.data import python_source


def function_of(head: str, answer: str) -> str:
    """The answer up to the first line that is indented no deeper than the function: there another thing begins."""
    indent = len(head) - len(head.lstrip(" "))
    first, *lines = answer.splitlines(keepends=True) or [""]
    for number, line in enumerate(lines):
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
            return "".join([first, *lines[:number]])
    return answer


def parses(head: str, answer: str) -> bool:
    """True if the answer has whole lines, and the head with them is Python inside the classes around it.

    An answer without a whole line that is not blank counts as a failure.
    """
    whole = function_of(head, answer[: answer.rfind("\n") + 1])
    if not whole.strip():
        return False
    text = head.removesuffix("\n") + whole
    indent = len(head) - len(head.lstrip(" "))
    for level in range(0, indent, 4):  # a method: the classes around it
        text = " " * (indent - 4 - level) + "class _:\n" + text
    return python_source.parses(text)


def is_next_line(answer: str, line: str) -> bool | None:
    """True if the first line of `answer` that is not blank is `line`; None while it may still become it.

    Text before the first line break would belong to the line before.
    """
    rest, *lines = answer.split("\n")
    if rest.strip():
        return False
    for number, found in enumerate(lines):
        if number < len(lines) - 1 and found.strip():
            return found == line
    last = lines[-1] if lines else ""
    return None if not last.strip() or line.startswith(last) else False


def is_filling(answer: str, ended: bool, middle: str) -> bool:
    """True if an answer that ended by itself is the hole's text; blanks at the end do not count."""
    return ended and answer.rstrip() == middle.rstrip()


def stops(answer: str, finish_reason: str) -> bool:
    """True if an answer says something and ended by itself."""
    return finish_reason in ("eos", "stop") and bool(answer.strip())
