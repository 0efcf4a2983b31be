"""`/v1/responses`, on bytes: bodies, events and answers, held against OpenAI's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import responses as types
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from tests.server.feeding import CALL, PARAMETERS, answered, check_type, context
from wavefold.server.protocol import PROTOCOLS, Refused, count_responses

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": PARAMETERS}
BODY: dict[str, Any] = {"model": "m", "input": "hey"}
THINKING = {"reasoning": {"effort": "high"}}
PATCH = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="apply_patch">\n'
    '<｜DSML｜parameter name="input" string="true">*** Begin</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)
NAMESPACE = {"type": "namespace", "name": "ns", "description": "d", "tools": [TOOL]}
CASES = [
    ({}, "Hello there.", "eos", "completed"),
    (THINKING, "so</think>Hello", "eos", "completed"),
    ({"tools": [TOOL]}, "Now" + CALL, "stop", "completed"),
    ({"tools": [TOOL], **THINKING}, "so</think>" + CALL, "stop", "completed"),
    ({"tools": [NAMESPACE]}, CALL.replace('"f"', '"ns__f"'), "stop", "completed"),
    ({"tools": [{"type": "custom", "name": "apply_patch"}]}, PATCH, "stop", "completed"),
    ({"top_logprobs": 2}, "Hello", "eos", "completed"),
    ({"tools": [TOOL]}, "Now" + CALL[:-70], "length", "incomplete"),
    (THINKING, "so", "length", "incomplete"),
    ({"top_logprobs": 2, **THINKING}, "so</think>Hello", "eos", "completed"),
    ({"metadata": {"a": "b"}, "parallel_tool_calls": False}, "Hello", "length", "incomplete"),
]


def refused(**changes: Any) -> Refused:
    with pytest.raises(Refused) as error:
        PROTOCOLS[PATH].asked(json.dumps({**BODY, **changes}).encode(), {}, context())
    return error.value


@pytest.mark.parametrize(("changes", "text", "reason", "status"), CASES)
def test_answers_are_of_openais_types(changes: dict[str, Any], text: str, reason: str, status: str) -> None:
    whole = answered(PATH, {**BODY, **changes}, text, reason).whole
    check_type(types.Response, whole)
    assert whole["status"] == status
    frames = answered(PATH, {**BODY, **changes, "stream": True}, text, reason).frames
    assert [data["sequence_number"] for _, data in frames] == list(range(len(frames)))
    for name, data in frames:
        assert name == data["type"]
        check_type(types.ResponseStreamEvent, data)
    last = frames[-1][1]["response"]
    assert last["usage"] == whole["usage"]
    assert [item["type"] for item in last["output"]] == [item["type"] for item in whole["output"]]
    for name, value in changes.items():
        if name in ("metadata", "parallel_tool_calls", "top_logprobs"):
            assert whole[name] == last[name] == value


def test_log_probabilities_are_shown_where_they_were_asked_for() -> None:
    whole = answered(PATH, {**BODY, "top_logprobs": 2}, "Hello").whole
    entries = whole["output"][0]["content"][0]["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * len(entries) and entries


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"), ({"conversation": "c"}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input.0"), ({"store": True}, "store"),
        ({"background": True}, "background"), ({"prompt": {"id": "p"}}, "prompt"), ({"max_tool_calls": 2}, "max_tool"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"), ({"tools": [{"type": "mcp"}]}, "tools.0"),
        ({"tools": [{"type": "file_search"}]}, "tools.0"), ({"tools": [{"type": "code_interpreter"}]}, "tools.0"),
        ({"tools": [{"type": "local_shell"}]}, "tools.0"), ({"tools": [{"type": "custom", "name": "c"}]}, "tools.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, "input.0.content.0"),
        ({"truncation": "auto"}, "truncation"), ({"include": ["file_search_call.results"]}, "include.0"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"), ({"input": []}, "input"),
    ],
)  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(changes: dict[str, Any], place: str) -> None:
    error = refused(**changes)
    assert error.status == 400 and (error.param or "").startswith(place)


def test_nested_schemas_reach_the_engine_whole() -> None:
    """As the client's `parse` sends them: strict, with `$defs`."""
    schema = {
        "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [3, 4]}},
        "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    body = {**BODY, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}}
    assert answered(PATH, body, '{"a": 3}').asked.parts[0].sampling.json_schema == schema
    tool = {**TOOL, "parameters": schema, "strict": True}
    part = answered(PATH, {**BODY, "tools": [tool]}).asked.parts[0]
    assert part.sampling.tools is not None and part.sampling.tools[0]["function"]["parameters"] == schema  # type: ignore[index]
    assert json.dumps(schema["$defs"]) in context().tokenizer.decode(part.prompt.ids)


@pytest.mark.parametrize("number", ["1e999", "-1e400", "[1e999]", '{"a": 2e308}'])
def test_numbers_beyond_64_bits_are_no_json(number: str) -> None:
    """An answer repeats these fields. A number that only looks large is one."""
    for field in ("user", "prompt_cache_key", "metadata"):
        with pytest.raises(Refused, match="is more than a number of 64 bits is") as error:
            PROTOCOLS[PATH].asked(f'{{"model": "m", "input": "a", "{field}": {number}}}'.encode(), {}, context())
        assert error.value.status == 400
    assert refused(metadata={"a": 1e308}).param is not None


def test_a_strict_tool_has_its_name_alone() -> None:
    """In a prompt a namespace's tool has another name, which another one may have."""
    loose, strict = {**TOOL, "name": "ns__f"}, {**TOOL, "strict": True}
    for tools in (
        [loose, {**NAMESPACE, "tools": [strict]}],
        [{**loose, "strict": True}, NAMESPACE],
        [
            {**NAMESPACE, "name": "a__b", "tools": [strict]},
            {**NAMESPACE, "name": "a", "tools": [{**TOOL, "name": "b__f"}]},
        ],
    ):
        error = refused(tools=tools)
        assert (error.status, error.param) == (400, "tools") and "two tools are called" in error.message
    answered(PATH, {**BODY, "tools": [loose, NAMESPACE]}, "Hello")
    answered(PATH, {**BODY, "tools": [TOOL, {**NAMESPACE, "tools": [strict]}]}, "Hello")


def test_items_of_the_client_come_back_as_they_were() -> None:
    for tools, text in (([TOOL], CALL), ([NAMESPACE], CALL.replace('"f"', '"ns__f"'))):
        body = {**BODY, "tools": tools, **THINKING}
        whole = answered(PATH, body, "so</think>Now" + text, "stop").whole
        output = types.Response.model_validate(whole).output
        result = {"type": "function_call_output", "call_id": output[-1].call_id, "output": "7"}
        for dumped in ([item.model_dump() for item in output], [item.to_dict() for item in output]):
            turns = [{"role": "user", "content": "hey"}, *dumped, result]
            got = answered(PATH, {**body, "input": turns}, "so</think>It is 7")
            assert got.whole["output"][-1]["content"][0]["text"] == "It is 7"


def test_a_failure_in_mid_stream_is_an_event() -> None:
    frames = answered(PATH, {**BODY, "stream": True}, "Hello", "error", error="no numbers").frames
    name, data = frames[-1]
    assert name == "error" and data["message"] == "no numbers"
    check_type(types.ResponseErrorEvent, data)
    assert data["sequence_number"] == len(frames) - 1


def test_tokens_are_counted() -> None:
    count = json.loads(count_responses(json.dumps(BODY).encode(), {}, context()))
    assert count["input_tokens"] == len(answered(PATH, BODY).asked.parts[0].prompt.ids)
    check_type(InputTokenCountResponse, count)
