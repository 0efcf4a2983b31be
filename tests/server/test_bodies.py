"""Bodies of any kind are answered or refused, and nothing else happens: valid bodies with parts replaced at random.

`python -m tests.server.test_bodies 20000` runs more of them.
"""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from tests.server.feeding import PARAMETERS, answered, context
from wavefold.server.protocol import PROTOCOLS, Refused, count_messages, count_responses

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1]}, "b": {"$ref": "#/$defs/b"}},
    "$defs": {"b": {"const": 2}},
}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m", "stream": True, "n": 2, "temperature": 0.5, "stop": ["x"], "max_tokens": 5, "seed": 3,
        "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "json"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "r"}, {"role": "user", "content": "u"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS, "strict": False}}],
        "tool_choice": "auto", "thinking": {"type": "enabled"}, "stream_options": {"include_usage": True},
        "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
    },
    "/v1/messages": {
        "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["x"],
        "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "r"},
                                         {"type": "text", "text": "y"}]},
        ],
        "tools": [{"name": "f", "input_schema": PARAMETERS}], "tool_choice": {"type": "any"}, "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
    },
    "/v1/responses": {
        "model": "m", "instructions": "i", "max_output_tokens": 5, "temperature": 0.1, "top_logprobs": 1,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "json"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "o"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "r"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": PARAMETERS},
                  {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "g"}]}],
        "reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "stream": True,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
    },
    "/v1/completions": {
        "model": "m", "prompt": [[5, 6]], "max_tokens": 2, "echo": True, "logprobs": 1, "n": 2, "stop": ["a"],
        "suffix": None, "seed": 1, "stream": False,
    },
}  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**24, 10**400, 0.5, -0.0, 1e308, "", "a", "auto", "required",
    "none", "json_schema", "\x00", "\ud7ff", "é" * 3, "</think>", "x" * 2000, [], {}, [[]], [None], {"type": "text"},
    ["a"], {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "function", "name": "f"}, {"role": "assistant", "content": ""}, {"role": "user", "content": [5]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, {"type": ["object"]}, {"a": {"b": []}},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(body: dict[str, Any], drawn: random.Random) -> dict[str, Any]:
    body = copy.deepcopy(body)
    for _ in range(drawn.randint(1, 2)):
        *way, last = drawn.choice(list(places(body)) or [("model",)])
        parent: Any = body
        for step in way:
            parent = parent[step]
        kind = drawn.random()
        if kind < 0.25:
            del parent[last]
        elif kind < 0.85:
            parent[last] = copy.deepcopy(drawn.choice(VALUES))
        elif isinstance(parent, dict):
            parent[drawn.choice(["x", "type", "role", "content", "name", "strict", "schema"])] = copy.deepcopy(
                drawn.choice(VALUES)
            )
        else:
            parent.append(copy.deepcopy(drawn.choice(VALUES)))
    return body


def run(path: str, count: int, seed: int) -> tuple[int, int]:
    """Returns how many bodies were answered, and how many refused."""
    drawn, served, answers = random.Random(seed), context(), 0
    for _ in range(count):
        body = changed(VALID[path], drawn)
        try:
            got = answered(path, body, "so</think>Hello", given=served)
            answers += 1
            assert got.wire or got.whole
        except Refused as error:
            assert 400 <= error.status < 500, (error.message, body)
            assert not re.search(r"[^a-z0-9_. ]", error.param or ""), error.param
            json.loads(PROTOCOLS[path].error(error, "r"))
        for counting, of in ((count_messages, "/v1/messages"), (count_responses, "/v1/responses")):
            if of == path:
                try:
                    counting(json.dumps(body).encode(), {}, served)
                except Refused as error:
                    assert 400 <= error.status < 500
    return answers, count - answers


@pytest.mark.parametrize("path", VALID)
def test_a_valid_body_is_answered(path: str) -> None:
    got = answered(path, VALID[path], "so</think>Hello")
    assert got.wire or got.whole


@pytest.mark.parametrize("path", VALID)
def test_bodies_are_answered_or_refused(path: str) -> None:
    answers, refusals = run(path, 150, 5)
    assert answers > 10 and refusals > 10


NULLS = (
    "previous_response_id",
    "conversation",
    "container",
    "mcp_servers",
    "functions",
    "audio",
    "best_of",
    "unheard_of",
)


@pytest.mark.parametrize("path", VALID)
def test_fields_that_are_null_ask_for_nothing(path: str) -> None:
    protocol, served = PROTOCOLS[path], context()
    bodies = [VALID[path], {**VALID[path], **dict.fromkeys(NULLS)}]
    asked = [protocol.asked(json.dumps(body).encode(), {}, served) for body in bodies]
    assert asked[0].parts[0].prompt.ids == asked[1].parts[0].prompt.ids
    name = next(name for name in ("messages", "input", "prompt") if name in VALID[path])
    with pytest.raises(Refused, match=f"{name} is missing"):
        protocol.asked(json.dumps({**VALID[path], name: None}).encode(), {}, served)


FIRST_WRONG = {
    "/v1/chat/completions": ("messages", {"role": "user"}, "messages.0.content"),
    "/v1/messages": ("messages", {"role": "user"}, "messages.0.content"),
    "/v1/responses": ("input", {"type": "function_call"}, "input.0.call_id"),
    "/v1/completions": ("prompt", [-1], "prompt.0.0"),
}


@pytest.mark.parametrize("path", VALID)
def test_wrong_bodies_are_read_up_to_the_first_wrong_element(path: str) -> None:
    """4 MB of wrong elements took ten seconds under Python's lock, one error each."""
    field, wrong, place = FIRST_WRONG[path]
    body = {"model": "m", field: [wrong] * 5000, **({"max_tokens": 5} if path == "/v1/messages" else {})}
    with pytest.raises(ValidationError) as found:
        PROTOCOLS[path].model_body.model_validate(body)
    assert found.value.error_count() < 5
    with pytest.raises(Refused) as refused:
        PROTOCOLS[path].asked(json.dumps(body).encode(), {}, context())
    assert refused.value.param == place


MANY = {str(number): None for number in range(5000)}


@pytest.mark.parametrize("more", [dict.fromkeys(MANY, 1), {"logit_bias": MANY}], ids=["unknown", "biases"])
def test_many_wrong_fields_are_counted(more: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="5,000 fields that are wrong or unknown"):
        PROTOCOLS["/v1/completions"].asked(json.dumps({"model": "m", "prompt": "a", **more}).encode(), {}, context())


def test_a_large_wrong_value_is_shown_from_its_beginning() -> None:
    body = {"model": "m", "prompt": "a", "temperature": [[]] * 100_000}
    with pytest.raises(Refused) as error:
        PROTOCOLS["/v1/completions"].asked(json.dumps(body).encode(), {}, context())
    assert error.value.message.startswith("temperature = [[], [], ") and len(error.value.message) < 400


@pytest.mark.parametrize("path", VALID)
def test_openapi_has_a_schema_of_each_body(path: str) -> None:
    schema = PROTOCOLS[path].model_body.model_json_schema()
    assert schema["additionalProperties"] is False and "model" in schema["required"]
    json.dumps(schema)


if __name__ == "__main__":
    for one_path in VALID:
        print(one_path, *run(one_path, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
