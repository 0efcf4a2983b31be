"""Replay: earlier answers stand in a prompt as they were sampled, and only if they say what the client sent."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.server.feeding import CALL, PARAMETERS, TOKENIZER, USER, answered, context
from wavefold.chat.special_tokens import EOS
from wavefold.server.protocol.replay import Answered, Replay
from wavefold.server.recipe import Call, Turn

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
FUNCTION = {"name": "f", "parameters": PARAMETERS}
TOOLS = {
    CHAT: [{"type": "function", "function": FUNCTION}],
    MESSAGES: [{"name": "f", "input_schema": PARAMETERS}],
    RESPONSES: [{"type": "function", **FUNCTION}],
}
THINKING = {
    CHAT: {"thinking": {"type": "enabled"}}, MESSAGES: {"thinking": {"type": "enabled"}},
    RESPONSES: {"reasoning": {"effort": "high"}},
}  # fmt: skip


def body(path: str, turns: list[Any], thinking: bool) -> dict[str, Any]:
    more = {"max_tokens": 90} if path == MESSAGES else {}
    key = "input" if path == RESPONSES else "messages"
    return {"model": "m", key: turns, "tools": TOOLS[path], **more, **(THINKING[path] if thinking else {})}


def sent_back(path: str, whole: dict[str, Any], reasoning: bool = True) -> list[Any]:
    """The turns that a client adds after an answer with a call: the answer, and a result."""
    if path == CHAT:
        message = dict(whole["choices"][0]["message"])
        if not reasoning:
            message.pop("reasoning_content", None)
        return [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "7"}]
    if path == MESSAGES:
        blocks = [block for block in whole["content"] if reasoning or block["type"] != "thinking"]
        result = {"type": "tool_result", "tool_use_id": blocks[-1]["id"], "content": "7"}
        return [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    items = [item for item in whole["output"] if reasoning or item["type"] != "reasoning"]
    return [*items, {"type": "function_call_output", "call_id": items[-1]["call_id"], "output": "7"}]


def spelled(text: str) -> list[int]:
    """Tokens of one byte each: what an encoder would never write."""
    marks = ("</think>", "｜DSML｜")
    ids: list[int] = []
    while text:
        mark = next((one for one in marks if text.startswith(one)), None)
        ids += [TOKENIZER.token_id(mark)] if mark else TOKENIZER.encode(text[0])
        text = text[len(mark) if mark else 1 :]
    return ids


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("reasoning", [True, False], ids=["sent", "left-out"])
@pytest.mark.parametrize("number", ["12", "1.20e1"])
def test_a_call_that_comes_back_is_read_as_it_was_sampled(
    path: str, thinking: bool, reasoning: bool, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id; its reasoning may be missing, and its numbers are written in another way than an encoder's."""
    served = context()
    answer = ("so it\nis</think>" if thinking else "") + "Now" + CALL.replace("12<", f"{number}<")
    sampled = spelled(answer)
    monkeypatch.setattr(TOKENIZER, "encode", _first_as(sampled, answer))
    turns: list[Any] = USER
    first = answered(path, body(path, turns, thinking), answer, "stop", served)
    again = answered(path, body(path, [*turns, *sent_back(path, first.whole, reasoning)], thinking), "x", "eos", served)
    before = first.asked.parts[0].prompt.ids
    after = again.asked.parts[0].prompt.ids
    assert after[: len(before)] == before
    assert after[len(before) :][: len(sampled) + 1] == [*sampled, TOKENIZER.eos_id]
    other = answered(path, body(path, [*turns, *sent_back(path, first.whole)], thinking), "x")
    assert other.asked.parts[0].prompt.ids != after


def _first_as(ids: list[int], text: str) -> Any:
    encode = TOKENIZER.encode
    return lambda given, *more, **other: list(ids) if given == text else encode(given, *more, **other)


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message | {"content": "Later"},
        lambda message: message | {"reasoning_content": "other"},
        lambda message: _with_call(message, id="call_00_other"),
        lambda message: _with_call(message, function={"name": "f", "arguments": '{"a": 13}'}),
        lambda message: _with_call(message, function={"name": "f", "arguments": '{"a": true}'}),
    ],
)
def test_a_turn_that_was_changed_is_written_anew(change: Any) -> None:
    for call in (CALL, CALL.replace("12<", "1<")):
        served = context()
        first = answered(CHAT, body(CHAT, USER, True), "so</think>Now" + call, "stop", served)
        message, result = sent_back(CHAT, first.whole)
        message = change(message)
        turns = [*USER, message, {**result, "tool_call_id": message["tool_calls"][0]["id"]}]
        got = [answered(CHAT, body(CHAT, turns, True), "x", "eos", one) for one in (served, context())]
        assert got[0].asked.parts[0].prompt.ids == got[1].asked.parts[0].prompt.ids


def _with_call(message: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return message | {"tool_calls": [message["tool_calls"][0] | changes]}


def test_a_text_that_comes_back_is_read_as_it_was_sampled() -> None:
    served = context()
    replay = served.replay
    replay.keep(Answered(False, "", "Hello", (), spelled("Hello")))
    turns = [*USER, {"role": "assistant", "content": "Hello"}, *USER]
    ids = answered(CHAT, {"model": "m", "messages": turns}, given=served).asked.parts[0].prompt.ids
    assert any(ids[first : first + 5] == spelled("Hello") for first in range(len(ids)))
    plain = answered(CHAT, {"model": "m", "messages": turns}).asked.parts[0].prompt.ids
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(plain) and len(ids) > len(plain)


@pytest.mark.parametrize(
    "answer",
    [
        Answered(False, "", "Hello", (), spelled("Hallo")),
        Answered(False, "", "Hello", (), [*spelled("Hello"), TOKENIZER.token_id("<｜User｜>")]),
        Answered(True, "so", "Hello", (), spelled("soHello")),
        Answered(False, "", "", (Call("c", "f", '{"a": 13}'),), spelled(CALL)),
        Answered(False, "", "", (Call("c", "g", '{"a": 12}'),), spelled(CALL)),
        Answered(False, "", "Hello", (), []),
    ],
)
def test_ids_that_say_something_else_are_not_kept(answer: Answered) -> None:
    replay = Replay(TOKENIZER)
    replay.keep(answer)
    turn = Turn("assistant", answer.content, answer.reasoning, answer.calls, False)
    assert replay.ids_of(turn, "<think>" if answer.thinking else "</think>") is None


def test_it_is_bounded() -> None:
    replay = Replay(TOKENIZER, most_tokens=40, most_answers=3)
    texts = ["one", "two", "three", "four", "x" * 39]
    for text in texts:
        replay.keep(Answered(False, "", text, (), spelled(text)))
        assert replay._num_tokens <= 40 and len(replay._kept) <= 3
    known = [replay.ids_of(Turn("assistant", text, "", (), False), "</think>") for text in texts]
    assert [ids is not None for ids in known] == [False, False, False, False, True]
    replay.keep(Answered(False, "", "y" * 41, (), spelled("y" * 41)))
    assert replay.ids_of(Turn("assistant", "y" * 41, "", (), False), "</think>") is None


def test_prompts_with_replay_are_those_of_the_library_piece_by_piece() -> None:
    """Random chats whose answers are all known: by the encoder's own ids, so that nothing changes."""
    drawn = random.Random(7)
    words = ["a", " </think>", "<｜User｜>", "é", "\n\n", "｜DSML｜", " 12", EOS, "x" * 9]
    for _ in range(60):
        served = context()
        turns: list[dict[str, Any]] = []
        for _ in range(drawn.randint(1, 4)):
            text, answer = ("".join(drawn.choices(words, k=drawn.randint(1, 6))) for _ in range(2))
            turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            served.replay.keep(Answered(False, "", answer, (), TOKENIZER.encode(answer)))
        request = {"model": "m", "messages": [*turns, {"role": "user", "content": "end"}]}
        ids = [answered(CHAT, request, given=one).asked.parts[0].prompt.ids for one in (served, context())]
        assert ids[0] == ids[1], json.dumps(request)
