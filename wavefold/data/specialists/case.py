"""Cases of a specialist, and which of them are never trained: by their template, or by their value.

                        value trained      value never trained
    template trained    training           held out, "value"
    template never      held out,          (not used)
                        "template"

A template is the form of a question: the kinds of the fields of an expression, the order of a date, a phrase. A value
is what it is about: an expression, a day, a quantity. Fixed shares of both are held out by hashes of their texts, so
that they are the same for every seed and count.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from wavefold.data.one_in import one_in

HeldOut = Literal["", "template", "value"]
HELD_OUT: tuple[HeldOut, ...] = ("template", "value")
DRAWS_A_CASE = 400
"""Drafts for each case, at most: there are only so many different questions."""


@dataclass(frozen=True)
class Case:
    """A question with one right answer; others may be right too, as the judge says.

    `template`, `value`: what the case is held out by. `source`: the part of the question that the judge's library
    reads, or the expression that the question describes. `held_out`: "" for a case to train on.
    """

    question: str
    answer: str
    template: str
    value: str
    source: str
    held_out: HeldOut = ""

    @property
    def chat(self) -> tuple[dict[str, str], ...]:
        """The case as messages to learn."""
        return {"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}


class Specialist(ABC):
    """One task: how its cases are drawn and judged. Its libraries are imported when they are first used."""

    name: str
    template_share: int
    """One template in so many is never trained."""
    value_share: int = 10
    """One value in so many is never trained."""

    @abstractmethod
    def draft(self, dice: random.Random) -> tuple[str, str]:
        """Returns (template, value), which may have been drawn before."""

    @abstractmethod
    def write(self, template: str, value: str, dice: random.Random) -> Case:
        """Returns a case of them; `dice` chooses its words. Raises ValueError where a package is not installed."""

    @abstractmethod
    def judge(self, case: Case, answer: str) -> bool:
        """True if the answer is right. A text of any other kind is wrong, never an error. Blanks around it are allowed.

        Raises ValueError where a package is not installed.
        """

    def held_out(self, template: str, value: str) -> HeldOut | None:
        """Returns what a case of them is held out by; None where both are never trained, which is not used."""
        by_template = one_in(f"{self.name} template {template}", self.template_share)
        by_value = one_in(f"{self.name} value {value}", self.value_share)
        if by_template and by_value:
            return None
        return "template" if by_template else "value" if by_value else ""

    def cases(self, seed: int, count: int, held_out: bool) -> list[Case]:
        """Returns `count` cases with different questions: to train on, or held out, in turn by template and by value.

        A function of the arguments and of the libraries' versions. No question of one kind is ever of another kind.
        Raises ValueError for a count below 1, for more cases than there are, and where a package is not installed.
        """
        if count < 1:
            raise ValueError(f"count = {count} is not allowed; expected 1 or more")
        dice = random.Random(f"{self.name} {seed} {held_out}")
        kinds: tuple[HeldOut, ...] = HELD_OUT if held_out else ("",)
        sizes = {kind: (count + len(kinds) - 1 - place) // len(kinds) for place, kind in enumerate(kinds)}
        found: dict[str, dict[str, Case]] = {kind: {} for kind in kinds}
        for _ in range(DRAWS_A_CASE * count):
            if all(len(found[kind]) == size for kind, size in sizes.items()):
                break
            template, value = self.draft(dice)
            kind = self.held_out(template, value)
            if kind in sizes and len(found[kind]) < sizes[kind]:
                case = self.write(template, value, dice)
                found[kind].setdefault(case.question, replace(case, held_out=kind))
        short = [
            f"{len(found[kind])} of {size} {kind}".rstrip() for kind, size in sizes.items() if len(found[kind]) < size
        ]
        if short:
            raise ValueError(f"{self.name}: has no {count} different cases; found {', '.join(short)}")
        return list(_in_turn([list(found[kind].values()) for kind in kinds]))


def missing(name: str, packages: str) -> ValueError:
    """Returns the error for a package that is not installed."""
    return ValueError(f"the specialist {name} needs {packages}; install with: pip install 'wavefold[specialists]'")


def _in_turn(parts: list[list[Case]]) -> Iterator[Case]:
    for place in range(max(map(len, parts))):
        yield from (part[place] for part in parts if place < len(part))
