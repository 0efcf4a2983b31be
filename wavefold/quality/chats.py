"""Chats: does the file's template say what V4's encoding says, is the end mark there, does an answer stop by itself.

    messages -> the file's template -> text -> ids      beside V4's encoding, in which this project runs chats
                V4's encoding where there is no template

Other programs follow a file's template, so that a wrong one does harm there. Right answers are scored in the chat as
the template writes it; the end mark is scored in V4's encoding, in which it always stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wavefold.chat.encoding import chat_ids, encode_chat, turn_ids
from wavefold.chat.special_tokens import ASSISTANT, BOS, END_THINK, EOS, USER
from wavefold.chat.template import rendered
from wavefold.engine import Sampling
from wavefold.quality.cases import CHATS
from wavefold.quality.part import Part, Result, Unit, present
from wavefold.quality.settings import BYTES_A_TOKEN, Settings
from wavefold.quality.statistics import Figure, figure_of, grouped_share_of, share_of
from wavefold.quality.subject import Subject

ANSWER_TOKENS = 96
TEMPERATURE = 0.7

Messages = Sequence[dict[str, str]]


class Chats(Part):
    name = "chats"

    def __init__(self, settings: Settings):
        self.settings = settings

    def problem(self, subject: Subject) -> str:
        lost = [token for token in (BOS, EOS, USER, ASSISTANT, END_THINK) if not subject.tokenizer.has(token)]
        return f"the tokenizer lacks {', '.join(lost)}" if lost else ""

    def units(self) -> list[Unit]:
        read = [sum(len(message["content"]) for message in chat) // BYTES_A_TOKEN for chat in CHATS]
        return [
            Unit(str(number), 3 * read[number], self.settings.draws * ANSWER_TOKENS, chat)
            for number, chat in enumerate(CHATS)
        ]

    def measure(self, subject: Subject, unit: Unit) -> Result:
        chat: Messages = unit.data
        tokenizer, problem = subject.tokenizer, ""
        encoded = encode_chat(tokenizer, chat)
        ids, prompt = encoded.ids, chat_ids(tokenizer, chat[:-1])
        if tokenizer.chat_template is not None:
            try:
                ids, prompt = templated(subject, chat)
            except ValueError as error:
                problem = str(error)
        ends = [row - 1 for row, token in enumerate(encoded.ids) if token == tokenizer.eos_id]
        end_nats = [subject.nats(encoded.ids, range(row, row + 1))[0] for row in ends]
        samplings = [
            Sampling(ANSWER_TOKENS, TEMPERATURE, 1.0, self.settings.seed + number, stop_ids=turn_ids(tokenizer))
            for number in range(self.settings.draws)
        ]
        answers = subject.llm.generate([prompt] * len(samplings), samplings)
        spans = [] if problem else answer_spans(subject, ids, chat)
        nats = subject.nats(ids, range(len(ids) - 1)) if spans else []
        return {
            "template": tokenizer.chat_template is not None, "problem": problem,
            "same": not problem and ids == encoded.ids,
            "end_marks": [not problem and ids[last : last + 1] == [tokenizer.eos_id] for _, last in spans]
            or [False] * len(ends),
            "end_nats": end_nats,
            "answers": [[sum(nats[first - 1 : last - 1]), last - first] for first, last in spans],
            "stops": [answer.finish_reason in ("eos", "stop") for answer in answers],
        }  # fmt: skip

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        templates = [result for result in results if result["template"]]
        answers = [
            (math.fsum(nats for nats, _ in result["answers"]), sum(tokens for _, tokens in result["answers"]))
            for result in results
        ]  # fmt: skip
        return present(
            [share_of(self.name, "chats that the template writes as V4's encoding", "all",
                      [result["same"] for result in templates]),
             grouped_share_of(self.name, "right answers with the end mark after them", "all",
                              [result["end_marks"] for result in results]),
             grouped_share_of(self.name, "answers that stop by themselves", f"within {ANSWER_TOKENS} tokens",
                              [result["stops"] for result in results]),
             figure_of(self.name, "nats per token", "right answers", answers, "low"),
             figure_of(self.name, "nats", "end mark after right answers",
                       [(math.fsum(result["end_nats"]), len(result["end_nats"])) for result in results], "low")]
        )  # fmt: skip


def templated(subject: Subject, chat: Messages) -> tuple[list[int], list[int]]:
    """Returns the ids of a chat, and of it up to its last answer, as the file's template writes them.

    Raises ValueError for a template that fails.
    """
    common: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS}
    whole, prompt = rendered(
        subject.tokenizer.chat_template or "",
        [{"messages": list(chat), "add_generation_prompt": False, **common},
         {"messages": list(chat[:-1]), "add_generation_prompt": True, **common}],
    )  # fmt: skip
    ids = [subject.tokenizer.encode(text, allow_special=True) for text in (whole, prompt)]
    if not all(ids):
        raise ValueError("the chat template writes nothing for a chat")
    return ids[0], ids[1]


def answer_spans(subject: Subject, ids: Sequence[int], chat: Messages) -> list[tuple[int, int]]:
    """The tokens (first, last) of the right answers in a chat's ids; empty where one is not there as tokens of its own.

    `last` is one more than the last.
    """
    spans, after = [], 0
    for message in chat:
        if message["role"] != "assistant":
            continue
        tokens = subject.tokenizer.encode(message["content"])
        place = _find(ids, tokens, max(after, 1))
        if place is None:
            return []
        after = place + len(tokens)
        spans.append((place, after))
    return spans


def _find(ids: Sequence[int], tokens: Sequence[int], first: int) -> int | None:
    for place in range(first, len(ids) - len(tokens) + 1):
        if list(ids[place : place + len(tokens)]) == list(tokens):
            return place
    return None
