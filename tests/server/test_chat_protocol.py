"""`/v1/chat/completions`, on bytes: bodies, chunks and answers, held against OpenAI's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import chat as types

from tests.server.feeding import CALL, PARAMETERS, TOKENIZER, USER, answered, check_type, context
from wavefold.engine.usage import Usage
from wavefold.server.protocol import PROTOCOLS, Refused

PATH = "/v1/chat/completions"
EXTRAS = frozenset({"reasoning_content", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"})
"""DeepSeek's own fields in OpenAI's protocol."""
TOOL = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
BODY: dict[str, Any] = {"model": "m", "messages": USER}
THINKING = {"thinking": {"type": "enabled"}}


def refused(**changes: Any) -> Refused:
    with pytest.raises(Refused) as error:
        PROTOCOLS[PATH].asked(json.dumps({**BODY, **changes}).encode(), {}, context())
    return error.value


CASES = [
    ({}, "Hello there.", "eos"),
    ({"thinking": {"type": "enabled"}}, "so</think>Hello", "eos"),
    ({"tools": [TOOL]}, "Now" + CALL, "stop"),
    ({"tools": [TOOL], "thinking": {"type": "enabled"}}, "so</think>" + CALL, "stop"),
    ({"tools": [TOOL]}, "Now" + CALL[:-40], "length"),
    ({"logprobs": True, "top_logprobs": 2}, "Hello", "eos"),
    ({"logprobs": True, "thinking": {"type": "enabled"}}, "so</think>Hello", "eos"),
    ({"n": 2}, "Hello", "length"),
    ({"stop": ["lo"]}, "Hello there", "length"),
    ({"messages": [*USER, {"role": "assistant", "content": "a", "tool_calls": []}, *USER]}, "Hello", "eos"),
]


@pytest.mark.parametrize(("changes", "text", "reason"), CASES)
def test_answers_are_of_openais_types(changes: dict[str, Any], text: str, reason: str) -> None:
    whole = answered(PATH, {**BODY, **changes}, text, reason).whole
    check_type(types.ChatCompletion, whole, EXTRAS)
    frames = answered(PATH, {**BODY, **changes, "stream": True}, text, reason).frames
    assert frames.pop() == (None, "[DONE]")
    chunks = [check_type(types.ChatCompletionChunk, data, EXTRAS) for _, data in frames]
    for index, choice in enumerate(whole["choices"]):
        message = choice["message"]
        pieces = [one.choices[0] for one in chunks if one.choices[0].index == index]
        assert "".join(piece.delta.content or "" for piece in pieces) == (message["content"] or "")
        reasoning = "".join(getattr(piece.delta, "reasoning_content", None) or "" for piece in pieces)
        assert reasoning == (message.get("reasoning_content") or "")
        called = "".join(
            call.function.arguments or "" for piece in pieces for call in piece.delta.tool_calls or ()
        )  # fmt: skip
        assert called == "".join(call["function"]["arguments"] for call in message.get("tool_calls") or ())
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [choice["finish_reason"]]


def test_usage_comes_where_it_was_asked_for() -> None:
    with_usage = answered(PATH, {**BODY, "stream": True, "stream_options": {"include_usage": True}}, cached=4).frames
    *others, (_, last), done = with_usage
    assert done == (None, "[DONE]") and last["choices"] == []
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert all("usage" not in data for _, data in others)
    without = answered(PATH, {**BODY, "stream": True}).frames
    assert all("usage" not in data for _, data in without[:-1])


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_what_one_answer_computed_for_the_others_was_not_cached(path: str) -> None:
    text = {"messages": USER} if path == PATH else {"prompt": ["hey", "hi"]}
    asked = PROTOCOLS[path].asked(json.dumps({"model": "m", "n": 2, **text}).encode(), {}, context())
    writer = PROTOCOLS[path].writer(asked, "r1")
    for index in range(len(asked.parts)):
        cached = 4 if index % 2 else index
        writer.begin(9, cached, index)
        writer.finish("eos", Usage(9, cached_tokens=cached), index)
    expected = 0 if path == PATH else 2  # of the first prompt none, of the second two
    assert json.loads(writer.whole())["usage"]["prompt_tokens_details"] == {"cached_tokens": expected}


def test_tokens_are_counted_up_to_a_stop_and_with_the_end_of_reasoning() -> None:
    body = {**BODY, "stop": "the", "thinking": {"type": "enabled"}}
    text = "so the</think>Hello"
    usage = answered(PATH, body, text + " there").whole["usage"]
    assert usage["completion_tokens"] == len(TOKENIZER.encode(text + " the", allow_special=True))
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(TOKENIZER.encode("so the"))}


@pytest.mark.parametrize(
    ("reason", "said"), [("eos", "stop"), ("stop", "stop"), ("length", "length"), ("context", "length")]
)
def test_finish_reasons(reason: str, said: str) -> None:
    assert answered(PATH, BODY, "Hello", reason).whole["choices"][0]["finish_reason"] == said


def test_an_answer_that_fails_says_so() -> None:
    frames = answered(PATH, {**BODY, "stream": True}, "Hello", "error", error="no numbers").frames
    assert frames[-1][1]["error"] == {
        "message": "no numbers", "type": "server_error", "param": None, "code": frames[-1][1]["error"]["code"]
    }  # fmt: skip
    with pytest.raises(Refused, match="no numbers") as error:
        answered(PATH, BODY, "Hello", "error", error="no numbers")
    assert error.value.status == 500


def test_what_a_client_sends_reaches_the_sampling() -> None:
    body = {
        **BODY, "temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.5, "logit_bias": {"40": -5}, "seed": 11,
        "max_completion_tokens": 9, "thinking": {"type": "enabled"},
    }  # fmt: skip
    sampling = answered(PATH, body).asked.parts[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 7, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 1.5)
    assert (sampling.logit_bias, sampling.seed, sampling.max_tokens) == ({40: -5.0}, 11, 9)
    assert sampling.stop_ids == (TOKENIZER.token_id("<｜User｜>"), TOKENIZER.token_id("<｜Assistant｜>"))
    other = answered(PATH, BODY).asked.parts[0].sampling
    assert (other.temperature, other.top_p, other.max_tokens) == (None, None, 8192)


def test_without_a_seed_answers_differ_and_n_have_their_own() -> None:
    first, second = (answered(PATH, {**BODY, "n": 2}).asked.parts for _ in range(2))
    assert len({part.sampling.seed for part in (*first, *second)}) == 4
    assert [part.sampling.seed for part in answered(PATH, {**BODY, "n": 2, "seed": 5}).asked.parts] == [5, 6]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"functions": []}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {}}, "audio"),
        ({"prediction": {}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"modalities": ["audio"]}, "modalities.0"),
        ({"n": 17}, "n"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"top_k": -2}, "top_k"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop.0"), ({"stop": ""}, "stop"), ({"stop": ["a"] * 17}, "stop"), ({"stop": 5}, "stop"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias"), ({"logit_bias": {" 7 ": 1}}, "logit_bias"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"stream_options": {}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "function", "content": "a"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, None),
        ({"response_format": {"type": "regex", "regex": "a"}}, "response_format"),
        ({"model": "m2"}, "model"),
        ({"max_tokens": 50_000}, None),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], place: str | None) -> None:
    error = refused(**changes)
    assert error.status == (404 if "model" in changes else 400)
    if place is not None:
        assert (error.param or "").startswith(place) and "[" not in (error.param or "")
        assert "constrained" not in error.message and "literal[" not in error.message
        assert place.split(".")[-1] in error.message or "tool_choice" in error.message


def test_the_window_and_the_model_have_codes_of_their_own() -> None:
    assert refused(max_tokens=50_000).code == "context_length_exceeded"
    assert refused(messages=[{"role": "user", "content": "word " * 30_000}]).code == "context_length_exceeded"
    assert refused(model="m2").code == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nonsense", b'{"model": NaN}', b'{"a": 1e999}', b"\xff{}", b'{"model":"\\ud800"}',
     b"[" * 100_000, b'{"a":' * 100_000, b'["m", []]', b"1" * 5000],
)  # fmt: skip
def test_bodies_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(Refused) as error:
        PROTOCOLS[PATH].asked(body, {}, context())
    assert error.value.status == 400
    json.loads(PROTOCOLS[PATH].error(error.value, "r1"))


def test_harmless_fields_change_nothing() -> None:
    harmless = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k",
        "safety_identifier": "s", "n": 1, "modalities": ["text"], "parallel_tool_calls": True,
    }  # fmt: skip
    ids = [answered(PATH, {**BODY, **more}).asked.parts[0].prompt.ids for more in ({}, harmless)]
    assert ids[0] == ids[1]


def test_developer_is_system_and_names_are_dropped() -> None:
    roles = (("system", None), ("developer", "d"))
    chats = [[{"role": role, "content": "be short", "name": name}, *USER] for role, name in roles]
    ids = [answered(PATH, {**BODY, "messages": chat}).asked.parts[0].prompt.ids for chat in chats]
    assert ids[0] == ids[1]


def test_a_message_of_the_client_comes_back_as_it_was() -> None:
    """OpenAI's message object, dumped as clients do, with all of its empty fields."""
    whole = answered(PATH, {**BODY, "tools": [TOOL]}, "Now" + CALL, "stop").whole
    message = types.ChatCompletion.model_validate(whole).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}
    for dumped in (message.model_dump(), message.model_dump(exclude_none=True)):
        body = {**BODY, "tools": [TOOL], "messages": [*USER, dumped, result]}
        assert answered(PATH, body).whole["choices"][0]["message"]["content"] == "Hello there."


@pytest.mark.parametrize("thinking", ["enabled", "disabled"])
def test_an_empty_system_text_alone_is_an_empty_prompt(thinking: str) -> None:
    """deepseek-recipe 0.2.0 leaves no message of it."""
    changes = {"messages": [{"role": "system", "content": ""}], "thinking": {"type": thinking}}
    assert answered(PATH, {**BODY, **changes}).asked.parts[0].prompt.ids


@pytest.mark.parametrize("marker", ["</think>", "<｜User｜>", "｜DSML｜", "<｜end▁of▁sentence｜>"])
def test_markers_in_contents_stay_text(marker: str) -> None:
    given = [{"role": role, "content": f"a{marker}b"} for role in ("system", "user")]
    ids = answered(PATH, {**BODY, "messages": given}).asked.parts[0].prompt.ids
    plain = answered(PATH, {**BODY, "messages": [{**one, "content": "ab"} for one in given]}).asked.parts[0].prompt.ids
    assert sum(map(TOKENIZER.is_added, ids)) == sum(map(TOKENIZER.is_added, plain))


def test_progress_is_a_comment_for_who_asks() -> None:
    protocol = PROTOCOLS[PATH]
    body = json.dumps({**BODY, "stream": True}).encode()
    for headers, frame in (({"x-wavefold-progress": "1"}, b": progress 3/6\n\n"), ({}, b"")):
        asked = protocol.asked(body, headers, context())
        assert protocol.writer(asked, "r").progress(3, 6) == frame


PREFIX = {"role": "assistant", "content": "Hel", "prefix": True}


@pytest.mark.parametrize(
    ("turn", "more", "end", "text", "shown"),
    [
        (PREFIX, {}, "</think>Hel", "lo", (None, "lo")),
        (PREFIX, {}, "</think>Hel", "\n\nlo", (None, "\n\nlo")),
        ({**PREFIX, "reasoning_content": "so"}, THINKING, "<think>so</think>Hel", "lo", (None, "lo")),
        ({**PREFIX, "content": "", "reasoning_content": "so"}, THINKING, "<think>so", " it</think>x", (" it", "x")),
    ],
)
def test_a_prefix_goes_on(turn: Any, more: Any, end: str, text: str, shown: tuple[str | None, str]) -> None:
    got = answered(PATH, {**BODY, **more, "messages": [*USER, turn]}, text)
    assert TOKENIZER.decode(got.asked.parts[0].prompt.ids).endswith(end)
    message = got.whole["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == shown
    details = got.whole["usage"].get("completion_tokens_details", {})
    assert details.get("reasoning_tokens", 0) == (len(TOKENIZER.encode(" it")) if shown[0] else 0)


def test_a_prefix_beside_a_schema_is_refused() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    assert "prefix" in refused(messages=[*USER, PREFIX], response_format=form).message
    assert "prefix" in refused(messages=[*USER, PREFIX], tools=[TOOL]).message
    turns = [*USER, {**PREFIX, "content": "", "reasoning_content": "so"}]
    part = answered(PATH, {**BODY, **THINKING, "messages": turns, "response_format": form}, "</think>1").asked.parts[0]
    assert part.sampling.thinking


IDS_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "Hello there 😀é.", "eos"), (THINKING, "so</think>Hello", "eos"), ({"stop": ["lo"]}, "Hello there", "length"),
    ({"tools": [TOOL]}, "Now" + CALL, "stop"), ({"n": 2}, "Hello", "length"), ({}, "Hel😀", "length"), ({}, "", "eos"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text", "reason"), IDS_CASES)
@pytest.mark.parametrize("steps", [1, 3])
def test_token_ids_for_who_asks(changes: dict[str, Any], text: str, reason: str, steps: int) -> None:
    """Those of all chunks together are those of the whole, under names that vLLM gave them and clients let through."""
    body = {**BODY, **changes, "return_token_ids": True}
    got = answered(PATH, body, text, reason, steps=steps)
    whole = check_type(types.ChatCompletion, got.whole, EXTRAS | {"prompt_token_ids", "token_ids"})
    assert whole.prompt_token_ids == got.asked.parts[0].prompt.ids
    frames = [data for _, data in answered(PATH, {**body, "stream": True}, text, reason, steps=steps).frames[:-1]]
    assert [data.get("prompt_token_ids") for data in frames] == [whole.prompt_token_ids] + [None] * (len(frames) - 1)
    for index, choice in enumerate(whole.choices):
        ids = [
            token for data in frames for one in data["choices"] if one["index"] == index for token in one["token_ids"]
        ]
        sampled = TOKENIZER.encode(text, allow_special=True)
        assert ids == choice.token_ids == (sampled if "stop" not in changes else sampled[: len(ids)])
        assert sum(len(choice.token_ids) for choice in whole.choices) == whole.usage.completion_tokens
    assert "token_ids" not in json.dumps(answered(PATH, {**BODY, **changes}, text, reason).whole)
