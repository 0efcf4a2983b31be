"""`/v1/messages`, on bytes: bodies, events and answers, held against Anthropic's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import types
from anthropic.types.shared import ErrorResponse

from tests.server.feeding import CALL, PARAMETERS, USER, answered, check_type, context
from wavefold.server.protocol import PROTOCOLS, Refused, count_messages
from wavefold.server.protocol.messages import ended_members

PATH = "/v1/messages"
TOOL = {"name": "f", "input_schema": PARAMETERS}
BODY: dict[str, Any] = {"model": "m", "messages": USER, "max_tokens": 100}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def refused(body: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as error:
        PROTOCOLS[PATH].asked(json.dumps(body).encode(), {}, context())
    return error.value


CASES = [
    ({}, "Hello there.", "eos", "end_turn"),
    (THINKING, "so</think>Hello", "eos", "end_turn"),
    ({"tools": [TOOL]}, "Now" + CALL, "stop", "tool_use"),
    ({"tools": [TOOL], **THINKING}, "so</think>" + CALL, "stop", "tool_use"),
    ({}, "Hello", "length", "max_tokens"),
    ({}, "Hello", "context", "model_context_window_exceeded"),
    ({"stop_sequences": ["lo"]}, "Hello there", "length", "stop_sequence"),
    ({"tools": [TOOL]}, "Now" + CALL[:-70], "length", "max_tokens"),
    ({"tools": [TOOL], **THINKING}, "so", "length", "max_tokens"),
]


@pytest.mark.parametrize(("changes", "text", "reason", "stopped"), CASES)
def test_answers_are_of_anthropics_types(changes: dict[str, Any], text: str, reason: str, stopped: str) -> None:
    whole = answered(PATH, {**BODY, **changes}, text, reason).whole
    check_type(types.Message, whole)
    assert whole["stop_reason"] == stopped
    frames = answered(PATH, {**BODY, **changes, "stream": True}, text, reason).frames
    assert frames[0][0] == "message_start" and frames[-1][0] == "message_stop"
    for name, data in frames:
        assert name == data["type"]
        if name != "ping":
            if name == "message_start":
                check_type(types.Message, data["message"])
            check_type(types.RawMessageStreamEvent, data)
    delta = frames[-2][1]
    assert delta["delta"]["stop_reason"] == stopped
    assert delta["usage"].items() <= whole["usage"].items()
    shown = "".join(data["delta"].get("text", "") for name, data in frames if name == "content_block_delta")
    assert shown == "".join(block.get("text", "") for block in whole["content"])


def test_usage_leaves_out_what_was_cached() -> None:
    for changes in ({}, {"stop_sequences": ["lo"]}):
        got = answered(PATH, {**BODY, **changes}, "Hello", cached=4)
        usage = got.whole["usage"]
        assert usage["cache_read_input_tokens"] == 4
        assert usage["input_tokens"] + 4 == len(got.asked.parts[0].prompt.ids)
        frames = answered(PATH, {**BODY, **changes, "stream": True}, "Hello", cached=4).frames
        assert frames[-2][1]["usage"]["cache_read_input_tokens"] == 4


@pytest.mark.parametrize(
    ("choice", "held"),
    [
        (None, ("auto", True)), ({"type": "any"}, ("required", True)),
        ({"type": "tool", "name": "f"}, ({"type": "function", "function": {"name": "f"}}, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [{}, THINKING], ids=["plain", "thinking"])
def test_choices_of_tools_hold_the_answer(choice: Any, held: tuple[Any, bool], more: dict[str, Any]) -> None:
    body = {**BODY, "tools": [TOOL], **more} | ({} if choice is None else {"tool_choice": choice})
    sampling = answered(PATH, body, "</think>" if more else "").asked.parts[0].sampling
    assert (sampling.tool_choice, sampling.parallel_tool_calls) == held
    assert sampling.thinking == bool(more)


def test_no_choice_leaves_tools_out_of_prompt_and_answer() -> None:
    none = answered(PATH, {**BODY, "tools": [TOOL], "tool_choice": {"type": "none"}}).asked.parts[0]
    assert none.sampling.tools is None and none.prompt.ids == answered(PATH, BODY).asked.parts[0].prompt.ids


def test_a_format_holds_the_answer_and_is_shown_to_the_model() -> None:
    nested = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [3, 4]}}}
    body = {**BODY, "output_config": {"format": {"type": "json_schema", "schema": nested}, "effort": "low"}}
    part = answered(PATH, body, "</think>{}").asked.parts[0]
    assert part.sampling.json_schema == nested
    shown = context().tokenizer.decode(part.prompt.ids)
    assert json.dumps(nested) in shown


def test_an_edit_that_keeps_all_thinking_changes_nothing() -> None:
    """Claude Code sends it with every request."""
    plain = answered(PATH, BODY).asked.parts[0]
    for edits in ([], [{"type": "clear_thinking_20251015", "keep": "all"}]):
        body = {**BODY, "context_management": {"edits": edits}}
        assert answered(PATH, body).asked.parts[0].prompt.ids == plain.prompt.ids


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"container": "c"}, "container"), ({"mcp_servers": []}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits.0"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, "context_management.edits.0"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015",
                                            "keep": {"type": "thinking_turns", "value": 2}}]}},
         "context_management.edits.0.keep"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
         "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]}]}]},
         "messages.0.content.0.content.0.type"),
        ({"tool_choice": {"type": "tool", "name": "g"}, "tools": [TOOL]}, "tool_choice"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"const": 2**80}}}}, ""),
        ({"max_tokens": 0}, "max_tokens"), ({"speed": "fast"}, "speed"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], place: str) -> None:
    error = refused({**BODY, **changes})
    assert error.status == 400 and (error.param or "").startswith(place)
    shape = json.loads(PROTOCOLS[PATH].error(error, "req_1"))
    check_type(ErrorResponse, shape)
    assert shape["error"]["type"] == "invalid_request_error" and shape["request_id"] == "req_1"


def test_a_thread_is_refused_so_that_the_tool_runner_goes_on_with_all_messages() -> None:
    for kind in ("create", "continue"):
        error = refused({**BODY, "thread": {"type": kind}})
        shape = json.loads(PROTOCOLS[PATH].error(error, "req_1"))
        assert shape["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def test_a_body_without_max_tokens_is_refused_and_counted() -> None:
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    assert refused(body).param == "max_tokens"
    count = json.loads(count_messages(json.dumps(body).encode(), {}, context()))
    assert count == {"input_tokens": len(answered(PATH, BODY).asked.parts[0].prompt.ids)}
    check_type(types.MessageTokensCount, count)


def test_models_are_not_found_in_anthropics_shape() -> None:
    error = refused({**BODY, "model": "claude"})
    assert (error.status, json.loads(PROTOCOLS[PATH].error(error, "r"))["error"]["type"]) == (404, "not_found_error")


def test_a_failure_in_mid_stream_is_an_event() -> None:
    name, data = answered(PATH, {**BODY, "stream": True}, "Hello", "error", error="no numbers").frames[-1]
    assert name == "error" == data["type"]
    assert data["error"] == {"type": "api_error", "message": "no numbers"}


def test_blocks_of_the_client_come_back_as_they_were() -> None:
    """Anthropic's objects, dumped with their empty fields, and a result of the call."""
    whole = answered(PATH, {**BODY, "tools": [TOOL], **THINKING}, "so</think>Now" + CALL, "stop").whole
    blocks = types.Message.model_validate(whole).content
    result = {"type": "tool_result", "tool_use_id": blocks[-1].id, "content": [{"type": "text", "text": "7"}],
              "is_error": False, "cache_control": {"type": "ephemeral"}}  # fmt: skip
    for dumped in ([block.model_dump() for block in blocks], [block.to_dict() for block in blocks]):
        turns = [*USER, {"role": "assistant", "content": dumped}, {"role": "user", "content": [result]}]
        got = answered(PATH, {**BODY, "tools": [TOOL], **THINKING, "messages": turns}, "so</think>It is 7")
        assert got.whole["content"][-1]["text"] == "It is 7"


VALUES = {"a": 12, "b": "hel</｜DSML", "c": [1, {"d": None}], "e": True}
PARTS = "".join(
    f'<｜DSML｜parameter name="{name}" string="{str(name == "b").lower()}">{value}</｜DSML｜parameter>\n'
    for name, value in {**{name: json.dumps(one) for name, one in VALUES.items()}, "b": VALUES["b"]}.items()
)
LONG_CALL = f'\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n{PARTS}</｜DSML｜invoke>\n</｜DSML｜tool_calls>'


def test_a_call_that_is_cut_off_shows_the_values_that_were_written_to_their_end() -> None:
    """At every character. The client's own helper, which puts a stream together, may show half of one value more."""
    properties = {name: {} for name in VALUES}
    body = {**BODY, "tools": [{"name": "f", "input_schema": {"type": "object", "properties": properties}}]}
    names, shown = list(VALUES), []
    for end in range(LONG_CALL.index('"f"') + 5, len(LONG_CALL)):
        whole = answered(PATH, body, LONG_CALL[:end], "length").whole
        [block] = whole["content"]
        assert whole["stop_reason"] == "max_tokens"
        assert block["input"] == {name: VALUES[name] for name in names[: len(block["input"])]}
        shown.append(len(block["input"]))
    assert shown == sorted(shown) and set(shown) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "members"),
    [("", {}), ("{", {}), ('{"a', {}), ('{"a": 12', {}), ('{"a": 12,', {"a": 12}), ('{"a": 12}', {"a": 12}), ("5", {}),
     ('{"a" : [1] , "b": "x"', {"a": [1]}), ('{"a" 1', {}), ('{"a": {"b": 1}, "c": tr', {"a": {"b": 1}}),
     ("[" * 5000, {})],
)  # fmt: skip
def test_ended_members(text: str, members: dict[str, Any]) -> None:
    assert ended_members(text) == members


def test_stop_texts_end_the_answer_and_not_its_reasoning() -> None:
    """They cut what a client shows. Reasoning often repeats the words of a task, and nothing would follow it."""
    body = {**BODY, **THINKING, "stop_sequences": ["the"]}
    whole = answered(PATH, body, "so the</think>Hello the end").whole
    assert [block.get("thinking", block.get("text")) for block in whole["content"]] == ["so the", "Hello "]
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "the")


@pytest.mark.parametrize("thinking", [{}, THINKING], ids=["plain", "thinking"])
@pytest.mark.parametrize("content", ["Hel", [{"type": "text", "text": "Hel"}]])
def test_an_answer_goes_on_where_a_last_turn_of_the_assistants_ends(thinking: dict[str, Any], content: Any) -> None:
    """As Anthropic's clients prefill it; the library would end that turn and begin another."""
    body = {**BODY, **thinking, "messages": [*USER, {"role": "assistant", "content": content}]}
    got = answered(PATH, body, "\nlo")
    assert context().tokenizer.decode(got.asked.parts[0].prompt.ids).endswith("</think>Hel")
    assert got.whole["content"][-1] == {"type": "text", "text": "\nlo"}
    counted = {name: value for name, value in body.items() if name != "max_tokens"}
    count = json.loads(count_messages(json.dumps(counted).encode(), {}, context()))["input_tokens"]
    assert count == len(got.asked.parts[0].prompt.ids)
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert "prefix" in refused({**body, "output_config": form}).message


def test_a_last_turn_with_a_call_is_not_gone_on_with() -> None:
    turn = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]}
    error = refused({**BODY, "tools": [TOOL], "messages": [*USER, turn]})
    assert error.status == 400 and "tool_result" in error.message
