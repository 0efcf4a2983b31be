"""Loop rate: the share of continuations that fall into repetition.

A continuation has fallen into repetition where a phrase of two tokens or more stands three times at its end, the
definition of Holtzman et al., "The Curious Case of Neural Text Degeneration" (ICLR 2020). Greedy continuations of
small models nearly all do, so drawn ones are counted beside them. A text that ended by itself has not.
"""

from __future__ import annotations

from collections.abc import Sequence

from wavefold.engine import Sampling
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.passages import Passage
from wavefold.quality.settings import BYTES_A_TOKEN, Settings
from wavefold.quality.statistics import Figure, figure_of, share_of
from wavefold.quality.subject import Subject

LEAST_PHRASE, TIMES = 2, 3
PROMPT_BYTES = 384
ANSWER_TOKENS = 128
TEMPERATURES = (0.0, 0.7)
TOGETHER = 8
"""Continuations in a unit, which are computed together."""


class Loops(Part):
    name = "loops"

    def __init__(self, passages: Sequence[Passage], settings: Settings):
        self.passages, self.settings = passages, settings

    def units(self) -> list[Unit]:
        found = []
        for group in range(self.settings.draws):
            prompts = self._prompts(group)
            read = sum(len(prompt.encode()) for prompt in prompts) // BYTES_A_TOKEN
            for temperature in TEMPERATURES:
                found.append(Unit(f"{temperature}-{group}", read, TOGETHER * ANSWER_TOKENS, (temperature, prompts)))
        return found

    def _prompts(self, group: int) -> list[str]:
        """Parts of passages, whole lines of about `PROMPT_BYTES`."""
        prompts = []
        for number in range(TOGETHER):
            place = group * TOGETHER + number
            passage = self.passages[place % len(self.passages)].text
            steps = 2 + (self.settings.draws * TOGETHER) // len(self.passages)
            begin = len(passage) * (1 + place // len(self.passages)) // (steps + 1)
            begin = passage.rfind("\n", 0, begin) + 1
            text = passage[begin : begin + PROMPT_BYTES]
            prompts.append(text.rsplit("\n", 1)[0].rstrip() or text or passage[:PROMPT_BYTES])
        return prompts

    def measure(self, subject: Subject, unit: Unit) -> Result:
        temperature, prompts = unit.data
        samplings = [
            Sampling(ANSWER_TOKENS, temperature, 1.0, self.settings.seed + number) for number in range(len(prompts))
        ]
        answers = subject.llm.generate([subject.tokenizer.encode(text, bos=True) for text in prompts], samplings)
        cases = [
            {"loops": answer.finish_reason == "length" and loops(answer.tokens), "tokens": len(answer.tokens),
             "distinct": len(set(zip(answer.tokens, answer.tokens[1:], strict=False)))}
            for answer in answers
        ]  # fmt: skip
        return {"temperature": temperature, "cases": cases}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        found: list[Figure | None] = []
        for temperature in TEMPERATURES:
            cases = [case for result in results if result["temperature"] == temperature for case in result["cases"]]
            of = "greedy" if temperature == 0 else f"temperature {temperature}"
            found.append(share_of(self.name, "continuations that fall into repetition", of,
                                  [case["loops"] for case in cases], "low"))  # fmt: skip
            pairs = [(case["distinct"], case["tokens"] - 1) for case in cases if case["tokens"] > 1]
            found.append(figure_of(self.name, "different pairs of tokens, of all pairs", of, pairs, "high"))
        return present(found)


def loops(tokens: Sequence[int]) -> bool:
    """True if a phrase of `LEAST_PHRASE` tokens or more stands `TIMES` times at the end."""
    return any(
        all(tokens[-size * turn :][:size] == tokens[-size:] for turn in range(2, TIMES + 1))
        for size in range(LEAST_PHRASE, len(tokens) // TIMES + 1)
    )
