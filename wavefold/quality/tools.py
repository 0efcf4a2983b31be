"""Tool calls: how often an answer is a valid call, by itself and held by the engine's grammar; and which tool it takes.

A call is valid where it is in V4's form, of a known tool, and jsonschema allows its arguments. The probability of the
right tool's name among all names is graded, given all of the call before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from wavefold.chat.special_tokens import ASSISTANT, DSML, END_THINK, USER
from wavefold.chat.tool_calls import OPENING, read_calls
from wavefold.engine import Sampling
from wavefold.quality.cases import TOOL_CASES, TOOLS, TOOLS_TEXT, ToolCase
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.settings import BYTES_A_TOKEN, Settings
from wavefold.quality.statistics import Figure, figure_of, grouped_share_of
from wavefold.quality.subject import Subject

ANSWER_TOKENS = 128
TEMPERATURE = 0.7
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


class Tools(Part):
    name = "tools"

    def __init__(self, settings: Settings):
        self.settings = settings

    def problem(self, subject: Subject) -> str:
        lost = [token for token in (USER, ASSISTANT, END_THINK, DSML) if not subject.tokenizer.has(token)]
        return f"the tokenizer lacks {', '.join(lost)}" if lost else ""

    def units(self) -> list[Unit]:
        draws, read = self.settings.draws, len(TOOLS_TEXT) // BYTES_A_TOKEN
        return [Unit(case.name, 2 * read, 2 * draws * ANSWER_TOKENS, case) for case in TOOL_CASES]

    def measure(self, subject: Subject, unit: Unit) -> Result:
        case: ToolCase = unit.data
        ids = _chat(subject, case.request)
        draws, seed = self.settings.draws, self.settings.seed
        free = [Sampling(ANSWER_TOKENS, TEMPERATURE, 1.0, seed + number) for number in range(draws)]
        bound = [
            Sampling(ANSWER_TOKENS, TEMPERATURE, 1.0, seed + number, tools=TOOLS, tool_choice="required",
                     parallel_tool_calls=False)
            for number in range(draws)
        ]  # fmt: skip
        answers = [answer.text or "" for answer in subject.llm.generate([ids] * (2 * draws), [*free, *bound])]
        opening = [*ids, *subject.tokenizer.encode(f'{OPENING}<{DSML}invoke name="', allow_special=True)]
        names = [case.tool, *(name for name in SCHEMAS if name != case.tool)]
        # the closing sign too: else the names of which others are the beginning gain
        scores = subject.continuations(opening, [subject.tokenizer.encode(f'{name}">') for name in names])
        largest = max(scores)
        weights = [math.exp(score - largest) for score in scores]
        return {
            "free": [is_call(text) for text in answers[:draws]],
            "held": [is_call(text) for text in answers[draws:]],
            "right": weights[0] / math.fsum(weights),
        }  # fmt: skip

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        free, bound = ([result[key] for result in results] for key in ("free", "held"))
        pairs = [(result["right"], 1) for result in results]
        return present(
            [grouped_share_of(self.name, "valid calls", "by itself", free),
             grouped_share_of(self.name, "valid calls", "held by the grammar", bound),
             figure_of(self.name, "probability of the right tool", "all", pairs, "high")]
        )  # fmt: skip


def _chat(subject: Subject, request: str) -> list[int]:
    """The tools as a system text and a request, in V4's encoding."""
    from wavefold.chat.encoding import chat_ids

    messages = [{"role": "system", "content": TOOLS_TEXT}, {"role": "user", "content": request}]
    return chat_ids(subject.tokenizer, messages)


def is_call(text: str) -> bool:
    """True if an answer has calls, and all of them are valid."""
    from jsonschema import Draft202012Validator

    try:
        _, calls = read_calls(text)
    except (ValueError, RecursionError):
        return False
    return bool(calls) and all(
        call.name in SCHEMAS and Draft202012Validator(SCHEMAS[call.name]).is_valid(dict(call.arguments))
        for call in calls
    )
