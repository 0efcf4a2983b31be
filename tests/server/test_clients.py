"""The official clients on our bytes, without a network: their helpers, their errors, a round trip with tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from tests.server.feeding import CALL, PARAMETERS, TOKENIZER, answered, context
from wavefold.server.protocol import PROTOCOLS, Context, Refused

Answer = tuple[str, str]
"""A text, and the reason of its end."""


class Server:
    """Answers in turn with the texts that it has, through the protocols. `bodies`: what was asked."""

    def __init__(self, *answers: Answer, served: Context | None = None):
        self.answers, self.served = list(answers), served or context()
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        protocol = PROTOCOLS[request.url.path]
        headers = {"x-request-id": "req_5", "request-id": "req_5"}
        try:
            got = answered(request.url.path, body, *self.answers[0], self.served, error="no numbers")
        except Refused as error:
            return httpx2.Response(error.status, headers=headers, content=protocol.error(error, "req_5"))
        del self.answers[0]
        if got.asked.stream:
            return httpx2.Response(200, headers={**headers, "content-type": "text/event-stream"}, content=got.wire)
        return httpx2.Response(200, headers={**headers, "content-type": "application/json"}, json=got.whole)

    @property
    def openai(self) -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return openai.OpenAI(api_key="k", base_url="http://here/v1", http_client=http, max_retries=0)

    @property
    def anthropic(self) -> anthropic.Anthropic:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return anthropic.Anthropic(api_key="k", base_url="http://here", http_client=http, max_retries=0)


USER: Any = [{"role": "user", "content": "json"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}


class Inner(BaseModel):
    a: int


class Outer(BaseModel):
    inner: Inner
    names: list[str]


PARSED = '{"inner": {"a": 3}, "names": ["x"]}'


def test_openai_streams_chats() -> None:
    server = Server(("so</think>Now" + CALL, "stop"))
    more = {"extra_body": {"thinking": {"type": "enabled"}}, "stream_options": {"include_usage": True}}
    with server.openai.chat.completions.stream(model="m", messages=USER, tools=[TOOL], **more) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "tool_calls.function.arguments.done"} <= kinds
    message = final.choices[0].message
    assert (message.content, message.reasoning_content) == ("Now", "so")  # type: ignore[attr-defined]
    assert message.tool_calls[0].function.parsed_arguments == {"a": 12} or message.tool_calls[0].function.arguments
    assert final.usage is not None and final.usage.prompt_tokens_details.cached_tokens == 3  # type: ignore[union-attr]


def test_openai_parses_nested_models() -> None:
    chat = Server((PARSED, "stop")).openai.chat.completions.parse(model="m", messages=USER, response_format=Outer)
    assert chat.choices[0].message.parsed == Outer(inner=Inner(a=3), names=["x"])
    response = Server((PARSED, "stop")).openai.responses.parse(model="m", input="json", text_format=Outer)
    assert response.output_parsed == Outer(inner=Inner(a=3), names=["x"])
    tool = openai.pydantic_function_tool(Outer, name="f")
    inner = '<｜DSML｜parameter name="inner" string="false">{"a": 3}</｜DSML｜parameter>\n'
    names = CALL.replace('"a"', '"names"').replace("12", '["x"]')
    sent = names.replace("<｜DSML｜parameter", f"{inner}<｜DSML｜parameter")
    called = Server((sent, "stop")).openai.chat.completions.parse(model="m", messages=USER, tools=[tool])
    assert called.choices[0].message.tool_calls[0].function.parsed_arguments == Outer(inner=Inner(a=3), names=["x"])


def test_openai_streams_responses() -> None:
    server = Server(("so</think>Now" + CALL, "stop"))
    tool: Any = {"type": "function", "name": "f", "parameters": PARAMETERS}
    with server.openai.responses.stream(model="m", input="hey", tools=[tool], reasoning={"effort": "high"}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "Now"


def test_anthropic_streams_and_parses_messages() -> None:
    server = Server(("Now" + CALL, "stop"), (PARSED, "stop"))
    tool: Any = {"name": "f", "input_schema": PARAMETERS}
    with server.anthropic.messages.stream(model="m", max_tokens=9, messages=USER, tools=[tool]) as stream:
        assert "".join(stream.text_stream) == "Now"
        final = stream.get_final_message()
    assert final.content[-1].input == {"a": 12} and final.stop_reason == "tool_use"
    parsed = server.anthropic.messages.parse(model="m", max_tokens=9, messages=USER, output_format=Outer)
    assert parsed.parsed_output == Outer(inner=Inner(a=3), names=["x"])
    assert "$defs" in server.bodies[-1]["output_config"]["format"]["schema"]


def test_anthropics_tool_runner_goes_on_with_all_messages() -> None:
    server = Server((CALL, "stop"), ("It is 7", "eos"), ("never", "eos"))

    @anthropic.beta_tool(name="f", description="d", input_schema=PARAMETERS)
    def function(a: int) -> str:
        return str(a - 5)

    runner = server.anthropic.beta.messages.tool_runner(model="m", max_tokens=9, messages=USER, tools=[function])
    assert runner.until_done().content[0].text == "It is 7"
    assert all("thread" in body for body in server.bodies[:1])
    last = server.bodies[-1]["messages"]
    assert [turn["role"] for turn in last] == ["user", "assistant", "user"] and "thread" not in server.bodies[-1]


def test_failures_in_mid_stream_reach_the_caller() -> None:
    with pytest.raises(openai.APIError, match="no numbers"):
        list(Server(("Hel", "error")).openai.chat.completions.create(model="m", messages=USER, stream=True))
    with pytest.raises(anthropic.APIStatusError, match="no numbers"):
        list(Server(("Hel", "error")).anthropic.messages.create(model="m", messages=USER, max_tokens=9, stream=True))
    events = list(Server(("Hel", "error")).openai.responses.create(model="m", input="hey", stream=True))
    assert events[-1].type == "error" and events[-1].message == "no numbers"
    with pytest.raises(openai.APIError, match="no numbers"):
        list(Server(("Hel", "error")).openai.completions.create(model="m", prompt="a", stream=True))


Ask = Callable[[Server], Any]
ASKS: list[Ask] = [
    lambda server: server.openai.chat.completions.create(model="none", messages=USER),
    lambda server: server.openai.responses.create(model="none", input="hey"),
    lambda server: server.openai.completions.create(model="none", prompt="hey"),
    lambda server: server.anthropic.messages.create(model="none", messages=USER, max_tokens=9),
]


@pytest.mark.parametrize("ask", ASKS)
def test_errors_have_the_class_and_the_id_that_clients_know(ask: Ask) -> None:
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as error:
        ask(Server(("x", "eos")))
    assert error.value.request_id == "req_5"
    assert "not served here" in error.value.message


def test_answers_have_the_request_id() -> None:
    chat = Server(("x", "eos")).openai.chat.completions.create(model="m", messages=USER)
    message = Server(("x", "eos")).anthropic.messages.create(model="m", messages=USER, max_tokens=9)
    assert chat._request_id == message._request_id == "req_5"
    assert chat.id == "chatcmpl-r1" and message.id == "msg_r1"


def test_a_tool_loop_with_the_clients_own_objects_replays_what_was_sampled() -> None:
    server = Server(("so</think>" + CALL, "stop"), ("</think>It is 7", "eos"))
    thinking = {"thinking": {"type": "enabled"}}
    turns: list[Any] = [*USER]
    first = server.openai.chat.completions.create(model="m", messages=turns, tools=[TOOL], extra_body=thinking)
    message = first.choices[0].message
    turns += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "7"}]
    server.openai.chat.completions.create(model="m", messages=turns, tools=[TOOL], extra_body=thinking)
    prompts = [answered("/v1/chat/completions", body, "</think>x", given=server.served).asked.parts[0].prompt.ids
               for body in server.bodies]  # fmt: skip
    sampled = TOKENIZER.encode("so</think>" + CALL, allow_special=True)
    assert prompts[1][: len(prompts[0]) + len(sampled)] == [*prompts[0], *sampled]


def test_odd_separators_and_emoji_come_through() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\nh 😀 \u0000"
    chunks = Server((text, "eos")).openai.chat.completions.create(model="m", messages=USER, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    with Server((text, "eos")).anthropic.messages.stream(model="m", max_tokens=9, messages=USER) as stream:
        assert "".join(stream.text_stream) == text
    with Server((text, "eos")).openai.responses.stream(model="m", input="hey") as responses:
        assert responses.get_final_response().output_text == text
    texts = Server((text, "eos")).openai.completions.create(model="m", prompt="a b", stream=True, logprobs=0)
    assert "".join(chunk.choices[0].text for chunk in texts) == text
