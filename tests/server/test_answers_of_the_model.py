"""The protocols with the model that ships: its answers are of the form that was asked for, and come back as sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.server.feeding import FOLDER, TOKENIZER, USER
from wavefold import LLM, ops
from wavefold.chat.special_tokens import DSML
from wavefold.engine.completion import Completion
from wavefold.ops import native
from wavefold.server.protocol import PROTOCOLS, Asked, Context, context_of

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels were not built")

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
WAYS = {
    "type": "object", "properties": {"way": {"$ref": "#/$defs/way"}, "steps": {"enum": [1, 22]}},
    "required": ["way"], "additionalProperties": False, "$defs": {"way": {"enum": ["up", "down"]}},
}  # fmt: skip
END_THINK = TOKENIZER.token_id("</think>")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with ops.using(backend="auto"), LLM() as llm:
        yield llm


@pytest.fixture
def served(llm: LLM) -> Context:
    return context_of(("m",), FOLDER, TOKENIZER, 4000, 3072, (TOKENIZER.eos_id,))


def answer(llm: LLM, served: Context, path: str, body: dict[str, Any]) -> tuple[Asked, Completion, Any]:
    """A request as the server runs it: its answer, and what a client gets."""
    protocol = PROTOCOLS[path]
    asked = protocol.asked(json.dumps(body).encode(), {}, served)
    writer = protocol.writer(asked, "r")
    [got] = llm.generate([asked.parts[0].prompt], [asked.parts[0].sampling])
    writer.begin(len(asked.parts[0].prompt.ids), got.usage.cached_tokens)
    writer.tokens(got.tokens, got.logprobs or ())
    writer.finish(got.finish_reason, got.usage, prompt_logprobs=got.prompt_logprobs or ())
    return asked, got, json.loads(writer.whole())


def calls_of(path: str, whole: Any) -> list[tuple[str, Any]]:
    if path == CHAT:
        functions = [call["function"] for call in whole["choices"][0]["message"]["tool_calls"]]
        return [(one["name"], json.loads(one["arguments"])) for one in functions]
    if path == MESSAGES:
        return [(one["name"], one["input"]) for one in whole["content"] if one["type"] == "tool_use"]
    return [(one["name"], json.loads(one["arguments"])) for one in whole["output"] if one["type"] == "function_call"]


def request(path: str, turns: list[Any], named: bool, seed: int) -> dict[str, Any]:
    """A body with two tools, one of which must be called."""
    function = {"name": "move", "parameters": WAYS, "strict": True}
    other = {"name": "wait", "parameters": {"type": "object", "properties": {}}}
    common = {"model": "m", "seed": seed, "temperature": 1.0}
    if path == CHAT:
        tools = [{"type": "function", "function": one} for one in (function, other)]
        choice = {"type": "function", "function": {"name": "move"}} if named else "required"
        return {**common, "messages": turns, "tools": tools, "tool_choice": choice, "max_tokens": 300}
    if path == MESSAGES:
        tools = [{"name": one["name"], "input_schema": one["parameters"]} for one in (function, other)]
        choice = {"type": "tool", "name": "move"} if named else {"type": "any", "disable_parallel_tool_use": True}
        return {**common, "messages": turns, "tools": tools, "tool_choice": choice, "max_tokens": 300}
    tools = [{"type": "function", **one} for one in (function, other)]
    choice = {"type": "function", "name": "move"} if named else "required"
    return {**common, "input": turns, "tools": tools, "tool_choice": choice, "max_output_tokens": 300}


def sent_back(path: str, whole: Any) -> list[Any]:
    if path == CHAT:
        message = whole["choices"][0]["message"]
        results = [{"role": "tool", "tool_call_id": one["id"], "content": "ok"} for one in message["tool_calls"]]
        return [message, *results]
    if path == MESSAGES:
        ids = [one["id"] for one in whole["content"] if one["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": one, "content": "ok"} for one in ids]
        return [{"role": "assistant", "content": whole["content"]}, {"role": "user", "content": results}]
    ids = [one["call_id"] for one in whole["output"] if one["type"] == "function_call"]
    return [*whole["output"], *({"type": "function_call_output", "call_id": one, "output": "ok"} for one in ids)]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("named", [True, False], ids=["named", "any"])
def test_calls_are_of_the_tools_and_come_back_as_they_were_sampled(
    path: str, named: bool, llm: LLM, served: Context
) -> None:
    turns: list[Any] = list(USER)
    for seed in range(3):
        asked, got, whole = answer(llm, served, path, request(path, turns, named, seed))
        calls = calls_of(path, whole)
        assert got.finish_reason == "stop" and calls
        assert (got.text or "").startswith(f"\n\n<{DSML}tool_calls>")
        assert [(call.name, dict(call.arguments)) for call in got.tool_calls or ()] == calls
        for name, arguments in calls:
            assert name == "move" or not named
            jsonschema.validate(arguments, WAYS if name == "move" else {"maxProperties": 0})
        turns += sent_back(path, whole)
        again, later, _ = answer(llm, served, path, request(path, turns, named, seed + 10))
        known = [*asked.parts[0].prompt.ids, *got.tokens]
        assert again.parts[0].prompt.ids[: len(known)] == known
        assert later.usage.cached_tokens >= len(known) - 128


@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thinking"])
def test_a_schema_holds_the_answer_after_its_reasoning(thinking: bool, llm: LLM, served: Context) -> None:
    """`</think>` is made likely: the model was not trained to reason."""
    more = {"thinking": {"type": "enabled"}, "logit_bias": {str(END_THINK): 20}} if thinking else {}
    form = {"type": "json_schema", "json_schema": {"name": "ways", "schema": WAYS, "strict": True}}
    for seed in range(3):
        body = {"model": "m", "messages": USER, "response_format": form, "seed": seed, "max_tokens": 400, **more}
        _, got, whole = answer(llm, served, CHAT, body)
        message = whole["choices"][0]["message"]
        assert got.finish_reason == "stop"
        jsonschema.validate(json.loads(message["content"]), WAYS)
        assert ("reasoning_content" in message) == thinking


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_after_reasoning(choice: str, llm: LLM, served: Context) -> None:
    tools = [{"type": "function", "function": {"name": "move", "parameters": WAYS}}]
    for seed in range(3):
        body = {
            "model": "m", "messages": USER, "tools": tools, "tool_choice": choice, "seed": seed,
            "max_tokens": 300 if choice == "required" else 40, "thinking": {"type": "enabled"},
            "logit_bias": {str(END_THINK): 20}, "parallel_tool_calls": False,
        }  # fmt: skip
        _, got, whole = answer(llm, served, CHAT, body)
        assert got.finish_reason != "error" and "reasoning_content" in whole["choices"][0]["message"]
        if choice == "required":
            assert got.finish_reason == "stop"
            [(name, arguments)] = calls_of(CHAT, whole)
            jsonschema.validate(arguments, WAYS)
            assert name == "move" and whole["choices"][0]["finish_reason"] == "tool_calls"


def test_any_object_is_an_object(llm: LLM, served: Context) -> None:
    body = {
        "model": "m", "messages": [{"role": "user", "content": "json"}], "response_format": {"type": "json_object"},
        "max_tokens": 60, "seed": 2, "temperature": 0.1,
    }  # fmt: skip
    _, got, whole = answer(llm, served, CHAT, body)
    text = whole["choices"][0]["message"]["content"]
    assert text.startswith("{") and (got.finish_reason == "length" or isinstance(json.loads(text), dict))


def test_log_probabilities_of_a_prompt_are_those_of_scoring(llm: LLM, served: Context) -> None:
    """As lm-eval asks for them: held against `LLM.score`."""
    ids = TOKENIZER.encode("def main():\n    return 0", bos=True)
    body = {"model": "m", "prompt": [ids], "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    _, _, whole = answer(llm, served, "/v1/completions", body)
    values = whole["choices"][0]["logprobs"]["token_logprobs"]
    [scored] = llm.score([ids[:3]], [ids[3:]])
    assert values[3:-1] == pytest.approx([entry.logprob for entry in scored], abs=0.05)
    assert len(values) == len(ids) + 1


def test_a_hole_is_filled(llm: LLM, served: Context) -> None:
    body = {"model": "m", "prompt": "def add(a, b):\n    ", "suffix": "\n\nprint(add(1, 2))\n", "temperature": 0}
    _, got, whole = answer(llm, served, "/v1/completions", body)
    assert whole["choices"][0]["text"] == got.text and got.text
