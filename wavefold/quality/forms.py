"""Structured output: how often an answer is JSON that its schema allows, by itself and held by the engine's grammar.

jsonschema judges, which the grammar knows nothing of. By itself an answer is valid where it begins with a valid value.
The right answer's nats a token are graded: they move where validity is all or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from wavefold.engine import Sampling
from wavefold.quality.cases import FORM_CASES, FormCase
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.settings import BYTES_A_TOKEN, Settings
from wavefold.quality.statistics import Figure, figure_of, grouped_share_of
from wavefold.quality.subject import Subject

ANSWER_TOKENS = 96
TEMPERATURE = 0.7


class Forms(Part):
    name = "forms"

    def __init__(self, settings: Settings):
        self.settings = settings

    def units(self) -> list[Unit]:
        draws = self.settings.draws
        return [
            Unit(case.name, len(prompt_of(case)) // BYTES_A_TOKEN, 2 * draws * ANSWER_TOKENS, case)
            for case in FORM_CASES
        ]

    def measure(self, subject: Subject, unit: Unit) -> Result:
        case: FormCase = unit.data
        ids = subject.tokenizer.encode(prompt_of(case), bos=True)
        draws, seed = self.settings.draws, self.settings.seed
        free = [Sampling(ANSWER_TOKENS, TEMPERATURE, 1.0, seed + number) for number in range(draws)]
        bound = [
            Sampling(ANSWER_TOKENS, TEMPERATURE, 1.0, seed + number, json_schema=case.schema)
            for number in range(draws)
        ]  # fmt: skip
        answers = [answer.text or "" for answer in subject.llm.generate([ids] * (2 * draws), [*free, *bound])]
        right = subject.tokenizer.encode(json.dumps(case.answer))
        nats = subject.nats([*ids, *right], range(len(ids) - 1, len(ids) + len(right) - 1))
        return {
            "free": [begins_valid(text, case.schema) for text in answers[:draws]],
            "held": [is_valid(text, case.schema) for text in answers[draws:]],
            "nats": nats,
        }  # fmt: skip

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        free, bound = ([result[key] for result in results] for key in ("free", "held"))
        pairs = [(sum(result["nats"]), len(result["nats"])) for result in results]
        return present(
            [grouped_share_of(self.name, "valid answers", "by itself", free),
             grouped_share_of(self.name, "valid answers", "held by the grammar", bound),
             figure_of(self.name, "nats per token", "right answers", pairs, "low")]
        )  # fmt: skip


def prompt_of(case: FormCase) -> str:
    """The prompt of a completion, which models that know no chats can go on with."""
    return (
        f"JSON schema:\n{json.dumps(case.schema)}\n\n"
        f"Text: {case.example_text}\nJSON: {json.dumps(case.example)}\n\nText: {case.text}\nJSON: "
    )


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    """True if all of a text is JSON that the schema allows."""
    from jsonschema import Draft202012Validator

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(Draft202012Validator(schema).is_valid(value))


def begins_valid(text: str, schema: dict[str, Any]) -> bool:
    """True if a text begins with JSON that the schema allows; blanks and a fence may stand before it."""
    start = text.lstrip().removeprefix("```json").removeprefix("```").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return is_valid(start[:end], schema)
