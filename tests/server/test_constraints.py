"""What holds an answer: tools as they are where they must be, loosened where they may be; schemas as they were sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.feeding import CALL, PARAMETERS, USER, answered, context
from wavefold.engine.tools import calls_of
from wavefold.server import recipe
from wavefold.server.protocol import PROTOCOLS, Refused

PATH = "/v1/chat/completions"
HARD = {
    "type": "object",
    "properties": {
        "where": {"type": "object", "propertyNames": {"pattern": "^a"}},
        "when": {"type": "string", "format": "uri-reference"},
        "steps": {"enum": [1, 2]},
    },
    "required": ["where"],
    "additionalProperties": False,
}
"""Two parameters that the engine cannot hold, as agents send them, and one that it can."""


def tool(parameters: Any, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def sampling(**changes: Any) -> Any:
    asked = PROTOCOLS[PATH].asked(json.dumps({"model": "m", "messages": USER, **changes}).encode(), {}, context())
    return asked.parts[0].sampling


def test_a_tool_that_may_be_called_is_held_as_far_as_it_can_be() -> None:
    hard, easy = sampling(tools=[tool(HARD), tool(PARAMETERS, "g")]).tools
    assert hard["function"]["parameters"] == {
        "type": "object", "properties": {"where": {}, "when": {}, "steps": {"enum": [1, 2]}}, "required": ["where"]
    }  # fmt: skip
    assert easy["function"]["parameters"] == PARAMETERS


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [tool(HARD, strict=True)]},
        {"tools": [tool(HARD)], "tool_choice": "required"},
        {"tools": [tool(HARD)], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [tool({"type": "object", "properties": {"of all": {}}})]},
    ],
)
def test_what_must_be_held_and_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused) as error:
        sampling(**changes)
    assert error.value.param == "tools" and "'f'" in error.value.message


def test_tools_without_a_schema_of_their_own_are_free_to_take_anything_or_nothing() -> None:
    assert sampling(tools=[tool(None)]).tools[0]["function"]["parameters"] == {}
    loose = sampling(tools=[tool({"type": "object", "anyOf": [{"required": ["a"]}]})]).tools[0]["function"]
    assert loose["parameters"]["additionalProperties"] is True


@pytest.mark.parametrize(
    ("strict", "schema"),
    [
        (True, {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [3, 4]}}}),
        (False, {"type": "array", "items": {"const": "x"}, "minItems": 2}),
        (True, {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]}),
    ],
)
def test_schemas_reach_the_engine_as_they_were_sent(strict: bool, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    assert sampling(response_format=form).json_schema == schema
    assert sampling(response_format=form, thinking={"type": "enabled"}).thinking
    if "$defs" in schema:
        held = sampling(tools=[tool(schema, strict=strict)]).tools[0]["function"]["parameters"]
        assert held == schema


@pytest.mark.parametrize("word", ["as JSON", "hey"])
def test_any_object_needs_no_word_for_it(word: str) -> None:
    """The library and both services want "json" in a message, since a model may go on for ever without it."""
    form = {"type": "json_object"}
    turns = [{"role": "user", "content": word}]
    bodies = {
        PATH: {"messages": turns, "response_format": form},
        "/v1/responses": {"input": word, "text": {"format": form}},
    }
    for path, body in bodies.items():
        for more in ({}, {"tools": ASKS[path]["tools"]}):
            part = answered(path, {"model": "m", **body, **more}, "{}").asked.parts[0]
            assert part.sampling.json_schema == {"type": "object"}
            assert "Reply with JSON object ONLY." in context().tokenizer.decode(part.prompt.ids)


def test_any_object_is_written_into_the_prompt_as_the_library_does() -> None:
    """Where it takes the request: with the word."""
    served, body = context(), {"messages": [{"role": "user", "content": "as json"}]}
    form = {"response_format": {"type": "json_object"}}
    for more in ({}, {"tools": [tool(PARAMETERS)]}):
        theirs = served.vocabulary.encoded(recipe.read("chat", "v4", {**body, **more, **form}, False))
        assert answered(PATH, {"model": "m", **body, **more, **form}, "{}").asked.parts[0].prompt.ids == theirs


def test_an_answer_in_json_is_not_changed() -> None:
    """The library blanks out what stands around JSON, chunk by chunk; here a grammar holds the answer."""
    body = {"model": "m", "messages": [{"role": "user", "content": "json"}], "response_format": {"type": "json_object"}}
    for text in ('{"a": 1}', 'I will not. {"a": 1} so'):
        assert answered(PATH, body, text).whole["choices"][0]["message"]["content"] == text


def test_calls_while_tools_are_not_to_be_called_are_text() -> None:
    body = {"model": "m", "messages": USER, "tools": [tool(PARAMETERS)], "tool_choice": "none"}
    message = answered(PATH, body, "Now" + CALL).whole["choices"][0]["message"]
    assert message["content"] == "Now" + CALL and "tool_calls" not in message


@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_a_schema_beside_tools_is_of_answers_without_calls(choice: str) -> None:
    schema = {"type": "object", "properties": {"b": {"enum": [1]}}, "required": ["b"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    got = sampling(tools=[tool(PARAMETERS)], tool_choice=choice, response_format=form)
    assert got.json_schema == schema and (got.tools is None) == (choice == "none")
    body = {"model": "m", "messages": USER, "tools": [tool(PARAMETERS)], "response_format": form}
    for text in ('{"b": 1}', CALL):
        message = answered(PATH, body, text, "stop").whole["choices"][0]["message"]
        assert bool(message.get("tool_calls")) == (text == CALL)


ASKS = {
    PATH: {"messages": USER, "tools": [tool(PARAMETERS)]},
    "/v1/messages": {"messages": USER, "tools": [{"name": "f", "input_schema": PARAMETERS}], "max_tokens": 9},
    "/v1/responses": {"input": "hey", "tools": [{"type": "function", "name": "f", "parameters": PARAMETERS}]},
}


@pytest.mark.parametrize("path", ASKS)
@pytest.mark.parametrize("value", ["", "True", "{"])
def test_arguments_that_are_no_json_are_an_error_of_the_answer(path: str, value: str) -> None:
    """Where no grammar held the model. Arguments that were cut off stay open: `length` says so."""
    broken = CALL.replace("12<", f"{value}<")
    with pytest.raises(Refused, match="'f' with arguments that are no JSON object") as error:
        answered(path, {"model": "m", **ASKS[path]}, broken, "eos")
    assert error.value.status == 500
    name, data = answered(path, {"model": "m", "stream": True, **ASKS[path]}, broken, "eos").frames[-1]
    assert "no JSON object" in json.dumps(data) and name in (None, "error")
    answered(path, {"model": "m", **ASKS[path]}, broken, "length")


@pytest.mark.parametrize("name", ["none", "auto", "required"])
def test_a_tool_may_be_called_as_a_choice_is(name: str) -> None:
    """The choice of that tool is the choice of a tool."""
    names = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
    turns = {"model": "m", "messages": USER, "tools": [tool(PARAMETERS, name), tool(PARAMETERS, "g")]}
    chosen = {"type": "function", "name": name}
    bodies = (
        {**turns, "tool_choice": {"type": "function", "function": {"name": name}}},
        {**turns, "max_tokens": 9, "tools": [{"name": name, "input_schema": PARAMETERS}],
         "tool_choice": {"type": "tool", "name": name}},
        {"model": "m", "input": "hey", "tools": [{**chosen, "parameters": PARAMETERS}], "tool_choice": chosen},
    )  # fmt: skip
    for path, body in zip(names, bodies, strict=True):
        got = answered(path, body, CALL.replace('"f"', f'"{name}"'), "stop")
        held = got.asked.parts[0].sampling._constraint
        assert held is not None and calls_of(held.text)[1] == "required"
        assert [one.name for one in calls_of(held.text).tools] == [name]
        assert f'"name":"{name}"' in json.dumps(got.whole, separators=(",", ":")) and "DSML" not in json.dumps(
            got.whole
        )
