"""The official `anthropic` client, and `openai`'s responses, against a server that runs."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.server.running import Running, served_model, wait_until

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "def add(a, b):"}]
MORE: dict[str, Any] = {"model": "wavefold", "max_tokens": 6, "extra_body": {"temperature": 0}}
WEATHER = {"name": "weather", "description": "The weather of a city.", "input_schema": {
    "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
    "additionalProperties": False,
}}  # fmt: skip


class Point(BaseModel):
    x: Literal[1, 2]
    name: Literal["a", "b"]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with served_model(cache_tokens=16_384) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def responses(server: Running) -> Iterator[Any]:
    address = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client.responses


class TestMessages:
    def test_create(self, client: Any, server: Running) -> None:
        answer = client.messages.create(messages=HELLO, **MORE)
        assert answer.content[0].text and (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 6)
        assert server.line_of(answer._request_id) is server.lines[-1]

    def test_streams_are_the_whole(self, client: Any, server: Running) -> None:
        whole = client.messages.create(messages=HELLO, **MORE).content[0].text
        with client.messages.stream(messages=HELLO, **MORE) as stream:
            assert "".join(stream.text_stream) == whole
            assert stream.get_final_message().usage.output_tokens == 6
        text = ""
        for event in client.messages.create(messages=HELLO, stream=True, **MORE):
            if event.type == "content_block_delta":
                text += event.delta.text
        assert text == whole

        async def work() -> str:
            address = f"http://127.0.0.1:{server.port}"
            async with (
                anthropic.AsyncAnthropic(base_url=address, api_key="none", max_retries=0) as client,
                client.messages.stream(messages=HELLO, **MORE) as stream,
            ):
                return "".join([text async for text in stream.text_stream])

        assert asyncio.run(asyncio.wait_for(work(), 60)) == whole

    def test_pings_while_nothing_comes(
        self, client: Any, server: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        """The client skips them."""
        monkeypatch.setattr("wavefold.server.answers.KEEP_ALIVE_S", 0.02)
        others = [server.open_stream("/v1/completions", prompt="a", max_tokens=200, logit_bias={"1": -100})
                  for _ in range(4)]  # fmt: skip
        wait_until(lambda: server.one.running.num_open == 4)
        with client.messages.stream(messages=HELLO, **MORE) as stream:
            assert "".join(stream.text_stream)
        for other in others:
            other.close()

    def test_counting_is_what_is_charged(self, client: Any) -> None:
        counted = client.messages.count_tokens(messages=HELLO, model="wavefold", tools=[WEATHER]).input_tokens
        answer = client.messages.create(messages=HELLO, tools=[WEATHER], **MORE)
        assert counted == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)

    def test_tools_and_back(self, client: Any, server: Running) -> None:
        messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome? " * 20}]
        first = client.messages.create(
            messages=messages, tools=[WEATHER], tool_choice={"type": "any"}, **{**MORE, "max_tokens": 100}
        )
        assert first.stop_reason == "tool_use"
        [call] = [block for block in first.content if block.type == "tool_use"]
        assert call.name == "weather" and call.input["city"] in ("Rome", "Oslo")
        messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}]  # fmt: skip
        second = client.messages.create(messages=messages, tools=[WEATHER], **MORE)
        assert second.usage.cache_read_input_tokens >= first.usage.input_tokens + first.usage.output_tokens - 16

    def test_the_runner_of_tools(self, client: Any) -> None:
        """It sends a thread first, is told that there is none, and goes on with the whole history."""
        calls = []

        @anthropic.beta_tool
        def add(a: Literal[1, 2], b: Literal[3]) -> str:
            """Adds.

            Args:
                a: a number
                b: a number
            """
            calls.append((a, b))
            return str(a + b)

        runner = client.beta.messages.tool_runner(
            messages=[{"role": "user", "content": "add"}], tools=[add], tool_choice={"type": "any"},
            max_iterations=2, model="wavefold", max_tokens=200,
        )  # fmt: skip
        assert len(list(runner)) == 2 and len(calls) >= 1

    def test_structured_output(self, client: Any) -> None:
        answer = client.messages.parse(
            messages=[{"role": "user", "content": "a point"}], output_format=Point, model="wavefold", max_tokens=100
        )
        assert isinstance(answer.parsed_output, Point)

    def test_errors_have_its_shape(self, client: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(anthropic.NotFoundError) as raised:
            client.messages.create(messages=HELLO, model="gpt-9", max_tokens=1)
        assert raised.value.body["error"]["type"] == "not_found_error" and raised.value.request_id
        with pytest.raises(anthropic.BadRequestError) as bad:
            client.messages.create(messages=[], model="wavefold", max_tokens=1)
        assert bad.value.body["error"]["type"] == "invalid_request_error"
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("../x")
        assert [model.id for model in client.models.list()] == ["wavefold"]
        monkeypatch.setattr(server.one.running, "_open", set(range(1000)))
        monkeypatch.setattr(type(server.one.running), "retry_after", 1)
        with pytest.raises(anthropic.RateLimitError):
            client.messages.create(messages=HELLO, **MORE)

    def test_a_failure_in_a_stream(self, client: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        step, steps, has_begun = server.one.llm.runner.step, itertools.count(), threading.Event()

        def failing(*args: Any) -> Any:
            if next(steps) > 0:
                assert has_begun.wait(30)
                raise RuntimeError("the disk is gone")
            return step(*args)

        monkeypatch.setattr(server.one.llm.runner, "step", failing)
        stream = client.messages.create(messages=HELLO, stream=True, model="wavefold", max_tokens=8000)
        next(iter(stream))
        has_begun.set()
        with pytest.raises(anthropic.APIStatusError):
            list(stream)
        monkeypatch.undo()
        wait_until(lambda: server.one.running.num_open == 0)

    def test_a_client_that_leaves(self, client: Any, server: Running) -> None:
        with client.messages.stream(messages=HELLO, model="wavefold", max_tokens=8000) as stream:
            next(iter(stream))
        wait_until(lambda: server.one.running.num_open == 0)


class TestResponses:
    def test_create_and_stream(self, responses: Any) -> None:
        more = {"model": "wavefold", "max_output_tokens": 6, "temperature": 0}
        whole = responses.create(input="def add(a, b):", **more)
        assert whole.output_text and whole.usage.output_tokens == 6
        text, kinds = "", []
        for event in responses.create(input="def add(a, b):", stream=True, **more):
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        assert text == whole.output_text
        assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"

    def test_structured_output_and_counting(self, responses: Any) -> None:
        answer = responses.parse(input="a point", text_format=Point, model="wavefold")
        assert isinstance(answer.output_parsed, Point)
        counted = responses.input_tokens.count(input="def add(a, b):", model="wavefold").input_tokens
        assert (
            counted
            == responses.create(input="def add(a, b):", model="wavefold", max_output_tokens=1).usage.input_tokens
        )

    def test_a_history_that_is_not_kept_is_refused(self, responses: Any) -> None:
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            responses.create(input="a", model="wavefold", previous_response_id="resp_1")
        with pytest.raises(openai.NotFoundError):
            responses.retrieve("resp_1")
