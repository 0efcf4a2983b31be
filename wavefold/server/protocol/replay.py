"""Replay: an answer that comes back in a later request is read as the tokens that were sampled, not written anew.

A model may write a text or a call's arguments in other tokens than an encoder would, and a prefix cache knows what was
sampled. So the ids of answers are kept, under what a client was shown of them. A later prompt has them in the place of
that turn, if the client sent the turn back as it was shown: the same text, or the same calls by id, name and arguments.

    answer with calls       (call ids, content, names and arguments)    reasoning may be missing: it comes with the ids
    answer without calls    (reasoning, content)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import ASSISTANT, END_THINK, EOS, THINK
from wavefold.chat.tool_calls import OPENING, read_calls
from wavefold.server.recipe import Call, Rendered, Turn

MOST_TOKENS = 1 << 22
"""Of all answers that are kept: 16 MiB."""
MOST_ANSWERS = 1 << 16


class Answered(NamedTuple):
    """What a client was shown of an answer, and the ids that were sampled after the prompt's last token.

    `thinking`: the prompt ended with `<think>`, so that the ids begin with reasoning.
    """

    thinking: bool
    reasoning: str
    content: str
    calls: tuple[Call, ...]
    ids: Sequence[int]


class _Kept(NamedTuple):
    thinking: bool
    reasoning: str
    ids: array[int]


class Replay:
    """The last answers, by what was shown of them. Any thread may use it."""

    def __init__(self, tokenizer: Tokenizer, most_tokens: int = MOST_TOKENS, most_answers: int = MOST_ANSWERS):
        self._tokenizer, self._most_tokens, self._most_answers = tokenizer, most_tokens, most_answers
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._num_tokens = 0
        self._lock = threading.Lock()

    def keep(self, answer: Answered) -> None:
        """Keeps an answer, if its ids are the whole of what was shown. The oldest ones make room."""
        if not answer.ids or len(answer.ids) > self._most_tokens or not self._is_whole(answer):
            return
        kept = _Kept(answer.thinking, answer.reasoning, array("i", answer.ids))
        key = _key(answer.reasoning, answer.content, answer.calls)
        with self._lock:
            self._drop(key)
            self._kept[key] = kept
            self._num_tokens += len(kept.ids)
            while self._num_tokens > self._most_tokens or len(self._kept) > self._most_answers:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self._num_tokens -= len(old.ids)

    def _is_whole(self, answer: Answered) -> bool:
        """True if the ids say what was shown, and nothing that was not."""
        text = self._tokenizer.decode(answer.ids)
        if any(self._tokenizer.is_hidden(token) for token in answer.ids):
            return False
        reasoning, end, rest = text.partition(END_THINK) if answer.thinking else ("", "", text)
        if answer.thinking and not end:
            return False
        try:
            content, calls = read_calls(rest) if answer.calls else (rest, ())
        except ValueError:
            return False
        return (
            reasoning.strip("\n") == answer.reasoning.strip("\n")
            and content.lstrip("\n") == answer.content.lstrip("\n")
            and (not answer.calls or rest.partition(OPENING)[0] == content)
            and [(call.name, _plain(call.arguments)) for call in calls]
            == [(call.name, _arguments(call.arguments)) for call in answer.calls]
        )

    def ids_of(self, turn: Turn, opening: str) -> Sequence[int] | None:
        """Returns the ids of an earlier turn after `opening`, which is `<think>` or `</think>`; None: not known."""
        key = _key(turn.reasoning, turn.content, turn.calls)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is None or turn.reasoning.strip("\n") not in ("", kept.reasoning.strip("\n")):
            return None
        if kept.thinking and opening == THINK:
            return kept.ids
        if opening != END_THINK:
            return None
        first = kept.ids.index(self._tokenizer.token_id(END_THINK)) + 1 if kept.thinking else 0
        return kept.ids[first:]

    def encoded(self, rendered: Rendered, turns: Sequence[Turn]) -> list[int] | None:
        """Returns the ids of a prompt with those of its earlier answers in it; None: none of them is known.

        None also for a prompt whose answers are not one for one the turns of the conversation.
        """
        places = _answers(rendered)
        answers = [turn for turn in turns if turn.role == "assistant" and not turn.continued]
        if not answers or len(places) != len(answers):
            return None
        known = {
            place.first: (place.end, ids)
            for place, turn in zip(places, answers, strict=True)
            if (ids := self.ids_of(turn, place.opening)) is not None
        }
        return self._joined(rendered, known) if known else None

    def _joined(self, rendered: Rendered, known: dict[int, tuple[int, Sequence[int]]]) -> list[int]:
        ids: list[int] = []
        at = 0
        ends = [*rendered.special, (len(rendered.text), len(rendered.text))]
        for first, end in ends:
            if first < at:
                continue  # within a turn that is replayed
            ids += self._tokenizer.encode(rendered.text[at:first])
            if end > first:
                ids.append(self._tokenizer.token_id(rendered.text[first:end]))
            at = end
            if at in known:
                at, replayed = known[at]
                ids += replayed
        return ids


class _Place(NamedTuple):
    """Characters `first` to `end` of a prompt, after `opening`, up to EOS."""

    opening: str
    first: int
    end: int


def _answers(rendered: Rendered) -> list[_Place]:
    """The answers in a prompt that have ended."""
    places: list[_Place] = []
    marks = [(rendered.text[first:end], first, end) for first, end in rendered.special]
    opened: tuple[str, int] | None = None
    for (before, _, _), (mark, first, end) in itertools.pairwise(marks):
        if before == ASSISTANT and mark in (THINK, END_THINK):
            opened = mark, end
        elif mark == EOS and opened is not None:
            places.append(_Place(*opened, first))
            opened = None
    return places


def _key(reasoning: str, content: str, calls: Sequence[Call]) -> bytes:
    """What a turn is known by: reasoning counts where there are no calls, whose ids are known to this server alone."""
    said = [[call.id, call.name, _arguments(call.arguments)] for call in calls]
    text = json.dumps([said, content] if calls else [reasoning.strip("\n"), content])
    return hashlib.sha256(text.encode()).digest()


def _arguments(text: str) -> str:
    """Arguments in one spelling, or as they are where they are no JSON."""
    try:
        return _plain(json.loads(text))
    except (ValueError, RecursionError):
        return f"?{text}"


def _plain(value: Any) -> str:
    return json.dumps(_whole_numbers(value), ensure_ascii=False)


def _whole_numbers(value: Any) -> Any:
    """1.0 as 1: JavaScript writes it so. Numbers that a float does not hold stay."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole_numbers(part) for key, part in value.items()}
    return [_whole_numbers(part) for part in value] if isinstance(value, list) else value
