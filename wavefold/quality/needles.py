"""Needles at lengths: a fact hidden in a long text, asked for at its end (G. Kamradt's test of 2023, by likelihood).

Four facts lie in a text, each a name and a number; one of them is asked for. The candidates are the four numbers and
four that stand nowhere. Two figures are graded, so that a small model shows a change too: the probability of the right
number among all eight (by chance 1/8), and of those in the text (by chance 1/2).
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Sequence

from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.passages import Passage
from wavefold.quality.settings import BYTES_A_TOKEN, Settings
from wavefold.quality.statistics import Figure, figure_of, share_of
from wavefold.quality.subject import Subject

FORMS = {
    "prose": ("The number of the {name} is{value}.\n", "\nThe number of the {name} is"),
    "code": ("NUMBER_OF_{name} ={value}\n", "\nNUMBER_OF_{name} ="),
}
"""A fact and its question."""
NAMES = ("harbour", "castle", "garden", "market", "bridge", "forest", "island", "tower")
FACTS = 4
CANDIDATES = 8


class Needles(Part):
    name = "needles"

    def __init__(self, passages: Sequence[Passage], settings: Settings):
        self.passages, self.settings = passages, settings

    def units(self) -> list[Unit]:
        return [
            Unit(f"{length}-{depth}-{form}", length, 0, (length, depth, form))
            for length in self.settings.lengths
            for depth in self.settings.depths
            for form in FORMS
        ]

    def measure(self, subject: Subject, unit: Unit) -> Result:
        length, depth, form = unit.data
        text, values = self.text(length, depth, form)
        ids = subject.tokenizer.encode(text, bos=True)
        scores = subject.continuations(ids, [subject.tokenizer.encode(f" {value}") for value in values])
        largest = max(scores)
        weights = [math.exp(score - largest) for score in scores]
        total = math.fsum(weights)
        return {
            "length": length, "depth": depth, "form": form, "tokens": len(ids),
            "right": weights[0] / total, "seen": math.fsum(weights[:FACTS]) / total,
            "found": scores[0] == largest and scores.count(largest) == 1,
        }  # fmt: skip

    def text(self, length: int, depth: float, form: str) -> tuple[str, list[int]]:
        """Returns a text of about `length` tokens that ends with a question, and the candidates, the right one first.

        The asked fact lies at `depth` of the text, the others spread over it.
        """
        chance = random.Random(f"{self.settings.seed} {length} {depth} {form}")
        values, names = chance.sample(range(1000, 10000), CANDIDATES), chance.sample(NAMES, FACTS)
        fact, question = FORMS[form]
        if form == "code":
            names = [name.upper() for name in names]
        lines = self._filler(length * BYTES_A_TOKEN, chance.randrange(len(self.passages)))
        places = [depth, *((depth + (number + 0.5) / FACTS) % 1 for number in range(1, FACTS))]
        ends = list(itertools.accumulate(len(line) for line in lines))
        hidden = [(bisect.bisect(ends, place * ends[-1]), number) for number, place in enumerate(places)]
        for place, number in sorted(hidden, reverse=True):
            lines.insert(place, fact.format(name=names[number], value=f" {values[number]}"))
        return "".join(lines) + question.format(name=names[0]), values

    def _filler(self, num_bytes: int, first: int) -> list[str]:
        """Lines of the passages, from a passage on, over and over."""
        lines: list[str] = []
        length = 0
        while True:
            for line in self.passages[first % len(self.passages)].text.splitlines(keepends=True):
                if length >= num_bytes:
                    return lines
                lines.append(line)
                length += len(line.encode())
            first += 1

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        found: list[Figure | None] = []
        groups = [("all", list(results))]
        for key, text in (("length", "{:,} tokens"), ("depth", "at {:.0%} of the text"), ("form", "{}")):
            for value in dict.fromkeys(result[key] for result in results):
                groups.append((text.format(value), [result for result in results if result[key] == value]))
        for of, cases in groups:
            for name, key in (("probability of the right number", "right"), ("of the numbers in the text", "seen")):
                found.append(figure_of(self.name, name, of, [(case[key], 1) for case in cases], "high"))
            found.append(share_of(self.name, "found", of, [case["found"] for case in cases]))
        return present(found)
