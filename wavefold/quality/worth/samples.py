"""Samples of all models side by side as Markdown: the first cases of five measures, whatever the answers are.

Cases are drawn by the seed before any model answers, so that nobody chooses them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from wavefold.quality.worth.asked import Answer, Asked, Measure
from wavefold.quality.worth.run import Worth

SAMPLES = 30
SHOWN = ("completions", "holes", "rewrites", "stops", "loops")


def samples(worths: Sequence[Worth], measures: Sequence[Measure], num: int = SAMPLES) -> str:
    """Returns `num` samples, the same number of each measure that was asked for."""
    shown = [one for one in measures if isinstance(one, Asked) and one.name in SHOWN]
    parts = [
        "# Samples",
        "",
        "The first cases of each measure, in the order in which they were drawn; none is left out.",
    ]
    for place, one in enumerate(shown):
        count = num // len(shown) + (place < num % len(shown))
        parts += ["", f"## {one.title[0].upper()}{one.title[1:]}"]
        answers = {
            worth.label: list(one.answers(worth.results[one.name])) for worth in worths if one.name in worth.figures
        }  # fmt: skip
        for number, case in enumerate(one.cases[:count]):
            parts += ["", f"### {one.name} {number + 1}", "", *_fenced(one.shown(case))]
            for label, found in answers.items():
                parts += ["", *_answer(label, one, case, found[number][1][0])]
    return "\n".join(parts) + "\n"


def _answer(label: str, one: Asked, case: object, answer: Answer) -> list[str]:
    counts = "counts" if one.judged(case, answer) else "does not count"
    return [f"{label}, {counts}, ended by {answer.finish_reason}:", "", *_fenced(answer.text)]


def _fenced(text: str) -> list[str]:
    """A text as a block that it cannot end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", text, fence]
