"""The official `openai` client against a server that runs: what people do with it, sync and async."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.server.running import Running, served_model, wait_until

openai = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "def add(a, b):"}]
MORE: dict[str, Any] = {"model": "wavefold", "max_tokens": 6, "temperature": 0}
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
                   "required": ["city", "days"], "additionalProperties": False},
}}  # fmt: skip


class Point(BaseModel):
    x: Literal[1, 2]
    name: Literal["a", "b"]


class Line(BaseModel):
    start: Point
    end: Point


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with served_model(cache_tokens=16_384) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def in_async(server: Running, work: Any) -> Any:
    """Runs `work(client)` with the asynchronous client."""

    async def main() -> Any:
        address = f"http://127.0.0.1:{server.port}/v1"
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
            return await asyncio.wait_for(work(client), 60)

    return asyncio.run(main())


class TestChat:
    def test_create(self, client: Any, server: Running) -> None:
        answer = client.chat.completions.create(messages=HELLO, **MORE)
        assert answer.choices[0].message.content and answer.choices[0].finish_reason == "length"
        assert (answer.usage.completion_tokens, answer.usage.prompt_tokens > 3) == (6, True)
        assert server.line_of(answer._request_id) is server.lines[-1]

    def test_streams_are_the_whole(self, client: Any, server: Running) -> None:
        """Greedy: the same text in one, in pieces, by the helper, and in an event loop."""
        whole = client.chat.completions.create(messages=HELLO, **MORE).choices[0].message.content
        chunks = list(client.chat.completions.create(
            messages=HELLO, stream=True, stream_options={"include_usage": True}, **MORE))  # fmt: skip
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
        assert chunks[-1].usage.completion_tokens == 6 and not chunks[-1].choices
        with client.chat.completions.stream(messages=HELLO, **MORE) as stream:
            try:
                text = "".join(event.delta for event in stream if event.type == "content.delta")
            except openai.LengthFinishReasonError as error:
                text = error.completion.choices[0].message.content
        assert text == whole

        async def work(client: Any) -> str:
            text = ""
            async for chunk in await client.chat.completions.create(messages=HELLO, stream=True, **MORE):
                text += chunk.choices[0].delta.content or ""
            return text

        assert in_async(server, work) == whole

    def test_many_at_once(self, server: Running) -> None:
        """Each gets the answer to its own prompt."""

        async def work(client: Any) -> list[str]:
            async def one(number: int) -> str:
                messages = [{"role": "user", "content": f"number {number}"}]
                answer = await client.chat.completions.create(messages=messages, **MORE, n=1)
                return f"{answer.usage.prompt_tokens}: {answer.choices[0].message.content}"

            return await asyncio.gather(*(one(number % 10) for number in range(40)))

        answers = in_async(server, work)
        assert [answers[number] for number in range(10)] * 4 == answers

    def test_structured_output(self, client: Any) -> None:
        """Nested models, through `parse`: strict schemas with $defs."""
        answer = client.chat.completions.parse(
            messages=[{"role": "user", "content": "a line in json"}], response_format=Line, model="wavefold", seed=5,
        )  # fmt: skip
        parsed = answer.choices[0].message.parsed
        assert isinstance(parsed, Line) and parsed.start.name in "ab"

    def test_tools_and_back(self, client: Any, server: Running) -> None:
        """A call, its result, an answer: sampled tokens are replayed, so the cache has all of the first turn."""
        messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome? " * 20}]
        first = client.chat.completions.create(
            messages=messages, tools=[WEATHER], tool_choice="required", model="wavefold", seed=3, max_tokens=100
        )
        [choice] = first.choices
        assert choice.finish_reason == "tool_calls"
        call = choice.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "weather" and arguments["city"] in ("Rome", "Oslo") and arguments["days"] in (1, 2)
        messages += [choice.message] + [
            {"role": "tool", "tool_call_id": one.id, "content": "sunny"} for one in choice.message.tool_calls
        ]
        second = client.chat.completions.create(messages=messages, tools=[WEATHER], **MORE)
        cached = second.usage.prompt_tokens_details.cached_tokens
        assert cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 16
        wait_until(lambda: bool(server.lines[-1].ends))
        assert server.lines[-1].values()["hit_in_memory"] == cached

    def test_a_second_turn_hits_the_first(self, client: Any) -> None:
        messages = [{"role": "user", "content": "import os\n" * 40}]
        first = client.chat.completions.create(messages=messages, **{**MORE, "max_tokens": 60})
        messages += [{"role": "assistant", "content": first.choices[0].message.content},
                     {"role": "user", "content": "and now?"}]  # fmt: skip
        second = client.chat.completions.create(messages=messages, **MORE)
        assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens

    def test_a_cancelled_stream_ends_its_request(self, client: Any, server: Running) -> None:
        with client.chat.completions.create(messages=HELLO, stream=True, model="wavefold", max_tokens=8000) as stream:
            next(iter(stream))
        wait_until(lambda: server.one.running.num_open == 0)

        async def work(client: Any) -> None:
            answer = asyncio.ensure_future(client.chat.completions.create(
                messages=HELLO, model="wavefold", max_tokens=8000, logit_bias={"1": -100}))  # fmt: skip
            while not server.one.running.num_open:
                await asyncio.sleep(0.01)
            answer.cancel()

        in_async(server, work)
        wait_until(lambda: server.one.running.num_open == 0)

    def test_log_probabilities(self, client: Any) -> None:
        answer = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=3, **MORE)
        content = answer.choices[0].logprobs.content
        assert len(content) == 6 and all(len(one.top_logprobs) == 3 for one in content)
        assert all(one.top_logprobs[0].logprob == one.logprob for one in content)  # greedy


class TestErrors:
    def test_shapes(self, client: Any, server: Running) -> None:
        with pytest.raises(openai.NotFoundError) as raised:
            client.chat.completions.create(messages=HELLO, model="gpt-9", max_tokens=1)
        assert raised.value.code == "model_not_found" and raised.value.request_id.startswith("req_")
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(messages=HELLO, **{**MORE, "max_tokens": 100_000})
        assert bad.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(messages="none", **MORE)
        with pytest.raises(openai.APIStatusError) as large:
            client.chat.completions.create(messages=[{"role": "user", "content": "a" * 12_000_000}], **MORE)
        assert large.value.status_code == 413

    def test_a_full_queue_is_tried_again(self, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """The client waits as Retry-After says."""
        monkeypatch.setattr(server.one.running, "max_queue", 0)
        fields = {"messages": HELLO, "max_tokens": 8000, "logit_bias": {"1": -100}}
        others = [server.open_stream("/v1/chat/completions", **fields) for _ in range(4)]
        leaving = threading.Timer(1.5, lambda: [other.close() for other in others])
        try:
            wait_until(lambda: server.one.running.num_open == 4)
            address = f"http://127.0.0.1:{server.port}/v1"
            with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
                with pytest.raises(openai.RateLimitError):
                    client.chat.completions.create(messages=HELLO, **MORE)
                leaving.start()
                patient = client.with_options(max_retries=20)
                assert patient.chat.completions.create(messages=HELLO, **MORE).choices[0].message.content
        finally:
            leaving.cancel()
            for other in others:
                other.close()
        wait_until(lambda: server.one.running.num_open == 0)

    def test_a_failure_in_a_stream(self, client: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*args: object) -> object:
            raise RuntimeError("the disk is gone")

        stream = client.chat.completions.create(
            messages=HELLO, stream=True, model="wavefold", max_tokens=8000, logit_bias={"1": -100}
        )
        next(iter(stream))
        monkeypatch.setattr(server.one.llm.runner, "step", failing)
        with pytest.raises(openai.APIError, match="RuntimeError in the engine"):
            list(stream)
        monkeypatch.undo()
        assert client.chat.completions.create(messages=HELLO, **MORE).choices


class TestCompletions:
    def test_text_and_stop(self, client: Any) -> None:
        answer = client.completions.create(prompt="def add(a, b):", **MORE)
        assert answer.choices[0].text and answer.usage.completion_tokens == 6
        middle = answer.choices[0].text[3:6]
        stopped = client.completions.create(prompt="def add(a, b):", stop=[middle], **MORE)
        assert stopped.choices[0].text == answer.choices[0].text[:3] and stopped.choices[0].finish_reason == "stop"

    def test_several_prompts_and_answers(self, client: Any) -> None:
        answer = client.completions.create(prompt=["a = ", "b = "], n=2, **{**MORE, "temperature": 1})
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]

    def test_the_middle_is_filled(self, client: Any) -> None:
        assert client.completions.create(prompt="def f(x):\n    ", suffix="\n    return y", **MORE).choices[0].text

    def test_models(self, client: Any) -> None:
        assert [model.id for model in client.models.list()] == ["wavefold"]
        assert client.models.retrieve("wavefold").owned_by == "wavefold"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("../../etc/passwd")
