"""A question, the answer to learn, and a check of any other answer. What a check looks at is parsed, never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

from wavefold.data.python_source import INVALID, parsed, parses

FENCE = re.compile(r"```[a-z]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A block that ends at the margin: fences within a docstring are indented."""


@dataclass(frozen=True)
class Exercise:
    """`kind`: which sort of question. `accepts`: True for a right answer; `check` guards it."""

    kind: str
    question: str
    answer: str
    accepts: Callable[[str], bool]

    def check(self, answer: str) -> bool:
        """True if the answer is right. Text that does not parse is wrong, never an error."""
        try:
            return self.accepts(answer)
        except INVALID:
            return False

    @property
    def chat(self) -> list[dict[str, str]]:
        """The exercise as messages to learn."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


def code_of(answer: str) -> str:
    """Returns the code of an answer: all of it if it parses (fences may stand in a docstring), or its first block."""
    if parses(answer):
        return answer
    fenced = FENCE.search(answer)
    return fenced[1] if fenced else answer


def same_code(answer: str, expected: str) -> bool:
    """True if both are the same program: comments, blanks and quotes may differ."""
    return ast.dump(parsed(code_of(answer))) == ast.dump(parsed(expected))
