"""Cases that a model answers, many at once: each group of cases is a unit of work, whose answers are kept.

case -> prompt, sampling -> LLM.each -> Answer, in a file -> judged when the table is made

A judge that changes needs no model. The engine is batch-invariant: an answer depends on its own case alone.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from wavefold.chat import Prompt
from wavefold.engine import Sampling
from wavefold.llm import LLM
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.settings import BYTES_A_TOKEN
from wavefold.quality.statistics import Figure, figure_of, share_of
from wavefold.quality.subject import Subject

TOGETHER = 64
"""Cases of a unit: what a killed run computes again, at most."""

Prompted = Prompt | Sequence[Mapping[str, object]]
"""Ids, or the messages of a chat."""


class Answer(NamedTuple):
    """An answer's text, why it ended (`Completion`), and its tokens."""

    text: str
    finish_reason: str
    tokens: list[int]


class Measure(Part):
    """A part with one figure. `title`: of it, for people. `better`: "low" or "high"."""

    title: str
    better = "high"

    def figure(self, results: Sequence[Result]) -> Figure | None:
        """Returns the figure of all units' results, in their order."""
        raise NotImplementedError

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return present([self.figure(results)])


class Asked(Measure):
    """Cases with answers. `draws`: answers to a case. `numbers`: what decides answers beside the cases, in JSON."""

    draws = 1
    together = TOGETHER

    def __init__(self, cases: Sequence[Any], **numbers: object):
        self.cases, self.numbers = cases, numbers

    # -- for each measure ----------------------------------------------------------------------------------------------

    @abstractmethod
    def prompt(self, subject: Subject, case: Any) -> Prompted:
        """Returns what the model reads."""

    @abstractmethod
    def sampling(self, subject: Subject, case: Any, number: int) -> Sampling:
        """Returns how answer `number` of all is chosen; the number is the same for every model."""

    @abstractmethod
    def judged(self, case: Any, answer: Answer) -> bool:
        """Returns what is counted."""

    @abstractmethod
    def sizes(self, case: Any) -> tuple[int, int]:
        """Characters that are read, and tokens that are chosen, about."""

    def key(self, case: Any) -> object:
        """Returns what a case is, in JSON."""
        return case

    # -- as a part -----------------------------------------------------------------------------------------------------

    def units(self) -> list[Unit]:
        found = []
        for first in range(0, len(self.cases), self.together):
            cases = self.cases[first : first + self.together]
            sizes = [self.sizes(case) for case in cases]
            read, chosen = (sum(size[number] for size in sizes) for number in (0, 1))
            key = f"{first:05}-{digest_of([self.name, self.draws, self.numbers, [self.key(case) for case in cases]])}"
            found.append(Unit(key, read // BYTES_A_TOKEN, chosen * self.draws, first))
        return found

    def measure(self, subject: Subject, unit: Unit) -> Result:
        first: int = unit.data
        cases = self.cases[first : first + self.together]
        prompts = [self.prompt(subject, case) for case in cases]
        jobs = [
            (place * self.draws + draw, prompts[place],
             self.sampling(subject, case, (first + place) * self.draws + draw))
            for draw in range(self.draws) for place, case in enumerate(cases)
        ]  # fmt: skip
        answers = dict(answered(subject.llm, jobs))
        return {"answers": [answers[number] for number in range(len(jobs))]}

    def answers(self, results: Sequence[Result]) -> Iterator[tuple[Any, list[Answer]]]:
        """Yields each case with its answers."""
        found = [Answer(*answer) for result in results for answer in result["answers"]]
        for number, case in enumerate(self.cases):
            yield case, found[number * self.draws : (number + 1) * self.draws]

    def figure(self, results: Sequence[Result]) -> Figure | None:
        judged = [[self.judged(case, answer) for answer in answers] for case, answers in self.answers(results)]
        if self.draws == 1:
            return share_of(self.name, self.title, "", [right for (right,) in judged], self.better)
        return figure_of(self.name, self.title, "", [(sum(one), len(one)) for one in judged], self.better)

    # -- for people ----------------------------------------------------------------------------------------------------

    def shown(self, case: Any) -> str:
        """Returns what is asked, for a sample."""
        raise NotImplementedError


def answered(llm: LLM, jobs: Sequence[tuple[int, Prompted, Sampling]]) -> Iterator[tuple[int, Answer]]:
    """Yields numbers with answers. Raises ValueError for what cannot be run, and for logits that are NaN."""
    for number, found in llm.each(jobs):  # type: ignore[arg-type]
        if isinstance(found, ValueError):
            raise found
        (completion,) = found
        if completion.error:
            raise ValueError(f"{llm.folder}: {completion.error}")
        yield number, Answer(completion.text or "", completion.finish_reason, list(completion.tokens))


def digest_of(values: object) -> str:
    """Twelve hexadecimal digits of values in JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
