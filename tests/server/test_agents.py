"""Agent loops with tools through each official client, against a server that runs: their own runners and by hand.

A loop asks, is answered with calls, sends what came back with their results, and so on to a text. Sync and async, whole
and in streams. What the model says is scripted (saying.py); `test_openai_client.py` and `test_anthropic_client.py` have
loops with the model that ships.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from openai.lib.responses_tool_runner import (
    AsyncRegisteredFunction,
    AsyncResponsesToolRunner,
    RegisteredFunction,
    ResponsesToolRunner,
)
from pydantic import BaseModel

from tests.server.feeding import TOKENIZER
from tests.server.saying import Said, Saying, call, calls

USER: Any = [{"role": "user", "content": "How warm is it?"}]
PARAMETERS: dict[str, Any] = {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
RESPONSES_TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
ROME, OSLO = {"city": (True, "Rome"), "days": (False, "2")}, {"city": (True, 'Oslo é😀 \\ "')}
FIRST = "I ask." + calls(("weather", ROME), ("weather", OSLO))
THEN = call("weather", city=(True, "Bari"), days=(False, "184467440737095516190"))
END = "Warm."
ASKED = [("Rome", 2), ('Oslo é😀 \\ "', None), ("Bari", 184467440737095516190)]


@pytest.fixture
def said(engine: Saying) -> Iterator[list[tuple[str, int | None]]]:
    """The cities and days that the tool was called with. Checks that each prompt holds the one before as sampled."""
    engine(FIRST, THEN, END)
    asked: list[tuple[str, int | None]] = []
    yield asked
    assert asked == ASKED
    prompts = [list(request.prompt) for request in engine.requests]
    for text, before, after in zip((FIRST, THEN), prompts, prompts[1:], strict=False):
        sampled = TOKENIZER.encode(text, allow_special=True)
        assert after[: len(before) + len(sampled)] == [*before, *sampled]
    assert not engine.answers and engine.prompt.count("degrees in") == len(ASKED)


def degrees(city: str, days: int | None) -> str:
    return f"7 degrees in {city}, {days or 0} days"


def run_chat(asked: list[Any], turns: list[Any], message: Any) -> bool:
    """Does what a message of chat asks for. Returns true where it asked."""
    turns.append(message)
    for one in message.tool_calls or ():
        arguments = json.loads(one.function.arguments)
        asked.append((arguments["city"], arguments.get("days")))
        turns.append({"role": "tool", "tool_call_id": one.id, "content": degrees(*asked[-1])})
    return bool(message.tool_calls)


def streamed_message(client: openai.OpenAI, turns: list[Any]) -> Any:
    with client.chat.completions.stream(model="wavefold", messages=turns, tools=[CHAT_TOOL]) as stream:
        return stream.get_final_completion().choices[0].message


def whole_message(client: openai.OpenAI, turns: list[Any]) -> Any:
    return client.chat.completions.create(model="wavefold", messages=turns, tools=[CHAT_TOOL]).choices[0].message


@pytest.mark.parametrize("ask", [whole_message, streamed_message])
def test_chat(engine: Saying, said: list[Any], ask: Any) -> None:
    turns = [*USER]
    with engine.openai() as client:
        while run_chat(said, turns, ask(client, turns)):
            pass
    assert turns[-1].content == END and turns[1].content == "I ask."


def test_chat_async(engine: Saying, said: list[Any]) -> None:
    async def work(client: openai.AsyncOpenAI) -> list[Any]:
        turns = [*USER]
        more: Any = {"model": "wavefold", "tools": [CHAT_TOOL]}
        while True:
            async with client.chat.completions.stream(messages=turns, **more) as stream:
                final = await stream.get_final_completion()
            if not run_chat(said, turns, final.choices[0].message):
                return turns

    assert engine.in_async(openai.AsyncOpenAI, work)[-1].content == END


class Weather(BaseModel):
    """A strict tool that the client makes of a model."""

    city: str
    days: int | None = None


STRICT = openai.pydantic_function_tool(Weather, name="weather")


@pytest.mark.parametrize(("stream", "eager"), [(False, False), (True, False), (True, True)])
def test_responses_runner(engine: Saying, said: list[Any], stream: bool, eager: bool) -> None:
    def execute(arguments: dict[str, object]) -> str:
        said.append((arguments["city"], arguments.get("days")))
        return degrees(*said[-1])

    runner = ResponsesToolRunner(functions=[RegisteredFunction(RESPONSES_TOOL, execute)])
    with engine.openai() as client:
        params: Any = {"model": "wavefold", "input": "How warm is it?"}
        final = runner.run(client, params, stream=stream, eager=eager, max_concurrent_calls=1)
    assert final.output_text == END


def test_responses_runner_async(engine: Saying, said: list[Any]) -> None:
    async def execute(arguments: dict[str, object]) -> str:
        said.append((arguments["city"], arguments.get("days")))
        return degrees(*said[-1])

    async def work(client: openai.AsyncOpenAI) -> Any:
        runner = AsyncResponsesToolRunner(functions=[AsyncRegisteredFunction(RESPONSES_TOOL, execute)])
        params: Any = {"model": "wavefold", "input": "How warm is it?"}
        return await runner.run(client, params, stream=True, max_concurrent_calls=1)

    assert engine.in_async(openai.AsyncOpenAI, work).output_text == END


def test_responses_by_hand(engine: Saying, said: list[Any]) -> None:
    """The whole history each time, items as the client's objects: nothing is stored here."""
    items: list[Any] = [*USER]
    with engine.openai() as client:
        while True:
            answer = client.responses.create(model="wavefold", input=items, tools=[RESPONSES_TOOL])
            items += answer.output
            called = [item for item in answer.output if item.type == "function_call"]
            for item in called:
                arguments = json.loads(item.arguments)
                said.append((arguments["city"], arguments.get("days")))
                output = degrees(*said[-1])
                items.append({"type": "function_call_output", "call_id": item.call_id, "output": output})
            if not called:
                break
    assert answer.output_text == END


def weather(said: list[Any]) -> Any:
    @anthropic.beta_tool(name="weather", description="d", input_schema=PARAMETERS)
    def function(city: str, days: int | None = None) -> str:
        said.append((city, days))
        return degrees(city, days)

    return function


def test_anthropic_runner(engine: Saying, said: list[Any]) -> None:
    with engine.anthropic() as client:
        runner = client.beta.messages.tool_runner(model="wavefold", max_tokens=99, messages=USER, tools=[weather(said)])
        messages = list(runner)
    assert [message.stop_reason for message in messages] == ["tool_use", "tool_use", "end_turn"]
    assert messages[0].content[0].text == "I ask." and messages[-1].content[0].text == END


def test_anthropic_runner_streams(engine: Saying, said: list[Any]) -> None:
    with engine.anthropic() as client:
        runner = client.beta.messages.tool_runner(
            model="wavefold", max_tokens=99, messages=USER, tools=[weather(said)], stream=True
        )
        finals = [stream.get_final_message() for stream in runner]
    assert finals[-1].content[0].text == END


def test_anthropic_runner_async(engine: Saying, said: list[Any]) -> None:
    @anthropic.beta_async_tool(name="weather", description="d", input_schema=PARAMETERS)
    async def function(city: str, days: int | None = None) -> str:
        said.append((city, days))
        return degrees(city, days)

    async def work(client: anthropic.AsyncAnthropic) -> Any:
        runner = client.beta.messages.tool_runner(model="wavefold", max_tokens=99, messages=USER, tools=[function])
        return await runner.until_done()

    assert engine.in_async(anthropic.AsyncAnthropic, work).content[0].text == END


def test_anthropic_by_hand(engine: Saying, said: list[Any]) -> None:
    turns: list[Any] = [*USER]
    tool: Any = {"name": "weather", "input_schema": PARAMETERS}
    with engine.anthropic() as client:
        while True:
            with client.messages.stream(model="wavefold", max_tokens=99, messages=turns, tools=[tool]) as stream:
                message = stream.get_final_message()
            turns.append({"role": "assistant", "content": message.content})
            if message.stop_reason != "tool_use":
                break
            results = []
            for block in message.content:
                if block.type == "tool_use":
                    said.append((block.input["city"], block.input.get("days")))
                    results.append({"type": "tool_result", "tool_use_id": block.id, "content": degrees(*said[-1])})
            turns.append({"role": "user", "content": results})
    assert message.content[0].text == END


def test_a_runner_does_not_run_a_call_that_was_cut_off(engine: Saying) -> None:
    said: list[Any] = []
    engine(Said(FIRST[: FIRST.index("Oslo")], "length"))
    with engine.anthropic() as client:
        runner = client.beta.messages.tool_runner(model="wavefold", max_tokens=99, messages=USER, tools=[weather(said)])
        final = runner.until_done()
    assert said == [] and final.stop_reason == "max_tokens"
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"city": "Rome", "days": 2}, {}]


def test_models_become_strict_tools_and_come_back_parsed(engine: Saying) -> None:
    engine(call("weather", city=(True, "Rome"), days=(False, "null")))
    with engine.openai() as client:
        parsed = client.chat.completions.parse(model="wavefold", messages=USER, tools=[STRICT])
    [one] = parsed.choices[0].message.tool_calls or []
    assert one.function.parsed_arguments == Weather(city="Rome", days=None)
