"""What deepseek-recipe does with a request, and what this server does: each row through the official clients.

The library's own defaults and rules, and where a server must add something, were measured before the server was built.
Here every row is asked of a server that runs (its engine says what a test gives it, saying.py), or has its test
elsewhere:

    subject                    here                                 elsewhere
    model names                TestNames                            test_app: paths in names
    thinking, effort           TestThinking                         test_profiles: texts of efforts
    temperature, top_p ...     TestSampling                         test_chat_protocol
    max tokens                 TestLengths                          test_chat_protocol
    lost or ignored fields     TestSampling, TestRefused            test_*_protocol: by name
    choice of a tool           TestTools                            test_constraints, test_answers_of_the_model
    images, files              TestRefused                          test_*_protocol
    json_object, schemas       TestForms                            test_constraints
    prefix                     TestHistory                          test_chat_protocol, test_messages_protocol
    history, order of roles    TestHistory                          test_replay
    arguments in history       test_agents                          test_replay
    markers in texts           TestHistory                          test_chat_protocol
    errors, request ids        TestErrors                           test_app, test_openai_client
    broken calls               TestErrors                           test_constraints
    usage, log probabilities   TestUsage                            test_chat_protocol, test_openai_client
    tool runners, threads      test_agents, TestErrors              test_clients
    failures in mid-stream     TestErrors                           test_clients, test_openai_client
    silence, clients that go   test_anthropic_client, test_openai_client, test_app
    other endpoints            TestOther                            test_openai_client: models, completions, holes
    echo, phase                TestOther                            test_responses_protocol
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.server.feeding import PARAMETERS, TOKENIZER
from tests.server.saying import CACHED, Said, Saying, call, saying

USER: Any = [{"role": "user", "content": "hey"}]
CHAT_TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
TOOL: Any = {"type": "function", "name": "f", "parameters": PARAMETERS, "strict": False}
CALL = call("f", a=(False, "12"))
ON: Any = {"thinking": {"type": "enabled"}}
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def engine() -> Iterator[Saying]:
    with saying() as engine:
        yield engine


@pytest.fixture(scope="module")
def gpt(engine: Saying) -> Iterator[openai.OpenAI]:
    with engine.openai() as client:
        yield client


@pytest.fixture(scope="module")
def claude(engine: Saying) -> Iterator[anthropic.Anthropic]:
    with engine.anthropic() as client:
        yield client


def chat(client: openai.OpenAI, messages: Any = USER, **more: Any) -> Any:
    own = {
        name: more.pop(name) for name in list(more) if name in ("thinking", "chat_template_kwargs", "top_k", "min_p")
    }
    return client.chat.completions.create(model="wavefold", messages=messages, extra_body=own, **more)


def message(client: anthropic.Anthropic, messages: Any = USER, **more: Any) -> Any:
    own = {name: more.pop(name) for name in list(more) if name in ("temperature", "top_p", "top_k", "seed")}
    return client.messages.create(model="wavefold", messages=messages, **{"max_tokens": 99, **more}, extra_body=own)


def respond(client: openai.OpenAI, items: Any = "hey", **more: Any) -> Any:
    return client.responses.create(model="wavefold", input=items, **more)


class TestNames:
    @pytest.mark.parametrize("name", ["DeepSeek-V4-Pro", "Wavefold", "wavefold ", "../wavefold", ""])
    def test_only_the_names_that_are_served(self, gpt: Any, claude: Any, name: str) -> None:
        for ask in (
            lambda: gpt.chat.completions.create(model=name, messages=USER),
            lambda: gpt.responses.create(model=name, input="hey"),
            lambda: gpt.completions.create(model=name, prompt="hey"),
        ):
            with pytest.raises(openai.NotFoundError) as error:
                ask()
            assert error.value.code == "model_not_found"
        with pytest.raises(anthropic.NotFoundError):
            claude.messages.create(model=name, messages=USER, max_tokens=1)

    def test_answers_have_the_name_that_was_asked_for(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "x", "x")
        assert {chat(gpt).model, message(claude).model, respond(gpt).model} == {"wavefold"}


class TestThinking:
    @pytest.mark.parametrize(
        ("more", "thinks"),
        [
            ({}, False), (ON, True), ({"thinking": {"type": "enabled", "budget_tokens": 9}}, True),
            ({"chat_template_kwargs": {"thinking": True}}, True),
            ({"chat_template_kwargs": {"enable_thinking": False}}, False),
            ({"reasoning_effort": "none"}, False), ({"reasoning_effort": "high"}, True),
            ({**ON, "reasoning_effort": "max"}, True),
        ],
    )  # fmt: skip
    def test_chat(self, engine: Saying, gpt: Any, more: dict[str, Any], thinks: bool) -> None:
        engine("so</think>Yes" if thinks else "Yes")
        answer = chat(gpt, **more).choices[0].message
        assert engine.prompt.endswith("<think>" if thinks else "</think>")
        assert (answer.content, getattr(answer, "reasoning_content", None)) == ("Yes", "so" if thinks else None)

    @pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
    def test_efforts(self, engine: Saying, gpt: Any, claude: Any, effort: Any) -> None:
        """The model that ships has V4's first form: a text for "max" alone."""
        engine("so</think>Yes", "so</think>Yes", "so</think>Yes")
        has_text = effort == "max"
        chat(gpt, **ON, reasoning_effort=effort)
        assert ("Absolute maximum" in engine.prompt) == has_text
        got = respond(gpt, reasoning={"effort": effort})
        assert ("Absolute maximum" in engine.prompt) == has_text and engine.prompt.endswith("<think>")
        assert [item.type for item in got.output] == ["reasoning", "message"]
        message(claude, thinking={"type": "adaptive"}, output_config={"effort": effort})
        assert ("Absolute maximum" in engine.prompt) == has_text and engine.prompt.endswith("<think>")

    def test_efforts_that_there_are_not(self, gpt: Any, claude: Any) -> None:
        for ask in (lambda: chat(gpt, reasoning_effort="huge"), lambda: respond(gpt, reasoning={"effort": "huge"})):
            with pytest.raises(openai.BadRequestError, match="effort"):
                ask()
        with pytest.raises(anthropic.BadRequestError, match="effort"):
            message(claude, output_config={"effort": "huge"})

    def test_messages_and_responses(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("so</think>Yes", "Yes", "Yes")
        got = message(claude, thinking={"type": "enabled", "budget_tokens": 1024, "display": "summarized"})
        assert [(block.type, getattr(block, "thinking", None)) for block in got.content] == [
            ("thinking", "so"),
            ("text", None),
        ]
        message(claude, thinking={"type": "disabled"})
        assert engine.prompt.endswith("</think>")
        respond(gpt, reasoning={"effort": "none"})
        assert engine.prompt.endswith("</think>")
        with pytest.raises(openai.BadRequestError, match="thinking"):
            respond(gpt, extra_body=ON)


class TestSampling:
    @pytest.mark.parametrize("on", [{}, ON], ids=["plain", "thinking"])
    def test_what_was_sent_is_kept(self, engine: Saying, gpt: Any, claude: Any, on: Any) -> None:
        engine("</think>x", "</think>x", "</think>x")
        chat(gpt, **on, temperature=0.25, top_p=0.5, presence_penalty=1, frequency_penalty=-1, logit_bias={"40": 3},
             top_k=7, min_p=0.125, seed=2**63 - 1)  # fmt: skip
        one = engine.sampling
        assert (one.temperature, one.top_p, one.top_k, one.min_p, one.seed) == (0.25, 0.5, 7, 0.125, 2**63 - 1)
        assert (one.adjustments.presence_penalty, one.adjustments.frequency_penalty, one.adjustments.logit_bias) == (
            1,
            -1,
            {40: 3},
        )
        message(claude, **on, temperature=0, top_k=3, top_p=0.75, seed=4)
        assert (engine.sampling.temperature, engine.sampling.top_k, engine.sampling.top_p) == (0, 3, 0.75)
        respond(gpt, temperature=0.5, top_p=0.25, **({"reasoning": {"effort": "high"}} if on else {}))
        assert (engine.sampling.temperature, engine.sampling.top_p) == (0.5, 0.25)

    def test_fields_of_accounts_change_nothing(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine(*"xxxxxx")
        chat(gpt), chat(gpt, user="u", metadata={"a": "b"}, store=False, service_tier="auto", prompt_cache_key="k")
        respond(gpt), respond(gpt, user="u", metadata={"a": "b"}, store=False, service_tier="auto", include=[])
        message(claude), message(claude, metadata={"user_id": "u"}, service_tier="auto")
        assert [list(request.prompt) for request in engine.requests[::2]] == [
            list(one.prompt) for one in engine.requests[1::2]
        ]

    def test_several_answers(self, engine: Saying, gpt: Any) -> None:
        engine("one", "two")
        got = chat(gpt, n=2, seed=5)
        assert [choice.message.content for choice in got.choices] == ["one", "two"]

    def test_stop_texts(self, engine: Saying, gpt: Any, claude: Any) -> None:
        """They end the answer, not its reasoning."""
        for _ in range(2):
            engine("so the</think>Hello the end", "so the</think>Hello the end")
            got = chat(gpt, **ON, stop=["the"]).choices[0]
            assert (got.message.content, got.message.reasoning_content, got.finish_reason) == (
                "Hello ",
                "so the",
                "stop",
            )
            ended = message(claude, **ON, stop_sequences=["the"])
            assert (ended.stop_reason, ended.stop_sequence) == ("stop_sequence", "the")


class TestLengths:
    def test_defaults(self, engine: Saying, gpt: Any) -> None:
        """The library's, cut to what the window leaves."""
        engine("x", "</think>x")
        chat(gpt), chat(gpt, **ON)
        off, on = engine.requests
        assert off.max_tokens == 8192 and on.max_tokens == 16_385 - len(on.prompt)

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_both_names(self, engine: Saying, gpt: Any, name: str) -> None:
        engine("x")
        chat(gpt, **{name: 7})
        assert engine.requests[-1].max_tokens == 7

    def test_longer_than_the_window(self, gpt: Any, claude: Any) -> None:
        for ask in (lambda: chat(gpt, max_tokens=500_000), lambda: respond(gpt, max_output_tokens=500_000)):
            with pytest.raises(openai.BadRequestError) as error:
                ask()
            assert error.value.code == "context_length_exceeded"
        with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
            message(claude, max_tokens=20_000)


Ask = Callable[[openai.OpenAI], Any]
OPENAI_REFUSALS: list[tuple[str, Ask]] = [
    ("previous_response_id", lambda client: respond(client, previous_response_id="resp_1")),
    ("conversation", lambda client: respond(client, conversation="conv_1")),
    ("item_reference", lambda client: respond(client, [{"type": "item_reference", "id": "i"}])),
    ("background", lambda client: respond(client, background=True)),
    ("store", lambda client: respond(client, store=True)),
    ("truncation", lambda client: respond(client, truncation="auto")),
    ("web_search", lambda client: respond(client, tools=[{"type": "web_search"}])),
    ("mcp", lambda client: respond(client, tools=[{"type": "mcp", "server_label": "s", "server_url": "u"}])),
    ("file_search", lambda client: respond(client, tools=[{"type": "file_search", "vector_store_ids": []}])),
    ("code_interpreter", lambda client: respond(client, tools=[
        {"type": "code_interpreter", "container": {"type": "auto"}}])),
    ("input_image", lambda client: respond(client, [{"role": "user", "content": [
        {"type": "input_image", "image_url": IMAGE, "detail": "auto"}]}])),
    ("image_url", lambda client: chat(client, [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": IMAGE}}]}])),
    ("functions", lambda client: chat(client, functions=[{"name": "f", "parameters": {}}])),
    ("prediction", lambda client: chat(client, prediction={"type": "content", "content": "x"})),
    ("modalities", lambda client: chat(client, modalities=["audio"])),
    ("custom", lambda client: chat(client, tools=[{"type": "custom", "custom": {"name": "f"}}])),
    ("tool_choice", lambda client: chat(client, tools=[CHAT_TOOL], tool_choice={
        "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}})),
    ("stop", lambda client: chat(client, stop=["x"] * 17)), ("stop", lambda client: chat(client, stop=[""])),
    ("n", lambda client: chat(client, n=17)),
    ("top_logprobs", lambda client: chat(client, logprobs=True, top_logprobs=21)),
    ("top_logprobs", lambda client: chat(client, top_logprobs=2)), ("seed", lambda client: chat(client, seed=-1)),
    ("stream_options", lambda client: chat(client, stream_options={"include_usage": True})),
    ("name", lambda client: chat(client, tools=[{"type": "function", "function": {"name": "f g"}}])),
    ("unique", lambda client: chat(client, tools=[CHAT_TOOL, CHAT_TOOL])),
    ("role", lambda client: chat(client, [{"role": "function", "name": "f", "content": "x"}])),
]  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize(("named", "ask"), OPENAI_REFUSALS)
    def test_openai(self, engine: Saying, gpt: Any, named: str, ask: Ask) -> None:
        """Nothing is left out without a word."""
        engine()
        with pytest.raises(openai.BadRequestError) as error:
            ask(gpt)
        assert named in error.value.message and error.value.type == "invalid_request_error" and not engine.requests

    @pytest.mark.parametrize(
        ("named", "more"),
        [
            ("image", {"messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}]}]}),
            ("document", {"messages": [{"role": "user", "content": [
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}]}]}),
            ("redacted_thinking", {"messages": [*USER, {"role": "assistant", "content": [
                {"type": "redacted_thinking", "data": "x"}]}]}),
            ("web_search_20250305", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            ("tool_use_id", {"messages": [{"role": "user", "content": [
                {"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "t", "content": "r"}]}]}),
        ],
    )  # fmt: skip
    def test_anthropic(self, engine: Saying, claude: Any, named: str, more: Any) -> None:
        engine()
        with pytest.raises(anthropic.BadRequestError, match=named):
            message(claude, **more)
        assert not engine.requests


class TestTools:
    @pytest.mark.parametrize("on", [{}, ON], ids=["plain", "thinking"])
    def test_calls_that_must_be_made(self, engine: Saying, gpt: Any, claude: Any, on: Any) -> None:
        """While thinking too, where the library refuses them, and for `any`, which it takes for auto."""
        before = "so</think>" if on else ""
        named: Any = {"type": "function", "function": {"name": "f"}}
        for choice in ("required", named):
            engine(before + CALL)
            got = chat(gpt, **on, tools=[CHAT_TOOL], tool_choice=choice).choices[0]
            assert got.message.tool_calls[0].function.arguments == '{"a": 12}' and got.finish_reason == "tool_calls"
            assert engine.sampling.constraint is not None
        for kind in ({"type": "any"}, {"type": "tool", "name": "f"}):
            engine(before + CALL)
            tools: Any = [{"name": "f", "input_schema": PARAMETERS, "type": "custom"}]
            called = message(claude, **on, tools=tools, tool_choice=kind)
            assert called.content[-1].input == {"a": 12} and called.stop_reason == "tool_use"
            assert engine.sampling.constraint is not None
        engine(before + CALL)
        responses = {"reasoning": {"effort": "high"}} if on else {}
        got = respond(gpt, tools=[TOOL], tool_choice={"type": "function", "name": "f"}, **responses)
        assert got.output[-1].arguments == '{"a": 12}' and engine.sampling.constraint is not None

    def test_none_leaves_tools_out(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "Now" + CALL)
        message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}], tool_choice={"type": "none"})
        assert "DSML" not in engine.prompt
        got = chat(gpt, tools=[CHAT_TOOL], tool_choice="none").choices[0].message
        assert got.content == "Now" + CALL and not got.tool_calls

    def test_a_choice_without_tools(self, gpt: Any) -> None:
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            chat(gpt, tool_choice="required")

    @pytest.mark.parametrize("parallel", [True, False])
    def test_one_call_at_a_time(self, engine: Saying, gpt: Any, claude: Any, parallel: bool) -> None:
        engine(CALL, CALL)
        chat(gpt, tools=[CHAT_TOOL], tool_choice="required", parallel_tool_calls=parallel)
        first = engine.sampling.constraint
        choice: Any = {"type": "any", "disable_parallel_tool_use": not parallel}
        message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}], tool_choice=choice)
        assert engine.sampling.constraint == first and f'"parallel": {str(parallel).lower()}' in first.text

    def test_namespaces_and_patches(self, engine: Saying, gpt: Any) -> None:
        engine(call("ns__f", a=(False, "1")), call("apply_patch", input=(True, "*** Begin")))
        tools: Any = [{"type": "namespace", "name": "ns", "description": "d", "tools": [TOOL]}]
        [item] = respond(gpt, tools=tools).output
        assert (item.type, item.name, item.namespace) == ("function_call", "f", "ns")
        [item] = respond(gpt, tools=[{"type": "custom", "name": "apply_patch"}]).output
        assert (item.type, item.input) == ("custom_tool_call", "*** Begin")


NESTED: Any = {
    "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"enum": [3, 4]}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip


class TestForms:
    def test_json_objects_need_no_word_and_are_not_blanked_out(self, engine: Saying, gpt: Any) -> None:
        text = 'I do. {"a": 1} so'
        engine(text, text)
        assert chat(gpt, response_format={"type": "json_object"}).choices[0].message.content == text
        assert respond(gpt, text={"format": {"type": "json_object"}}).output_text == text
        assert all(one.sampling.sampling.constraint is not None for one in engine.requests)

    def test_nested_schemas_hold_the_answer_as_they_were_sent(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine('{"a": 3}', '{"a": 3}', '{"a": 3}')
        chat(
            gpt, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": NESTED, "strict": True}}
        )
        respond(gpt, text={"format": {"type": "json_schema", "name": "x", "schema": NESTED, "strict": True}})
        message(claude, output_config={"format": {"type": "json_schema", "schema": NESTED}})
        for request in engine.requests:
            assert '"$defs"' in request.sampling.sampling.constraint.text
        assert '"$defs"' in engine.prompt, "shown to the model, also of messages"


class TestHistory:
    def test_a_prefix_goes_on_with_its_line_breaks(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("\n  return 1", "\n  return 1")
        turns = [*USER, {"role": "assistant", "content": "def f():", "prefix": True}]
        assert chat(gpt, turns).choices[0].message.content == "\n  return 1"
        turns[-1].pop("prefix")
        assert message(claude, turns).content[0].text == "\n  return 1" and engine.prompt.endswith("</think>def f():")

    @pytest.mark.parametrize("marker", ["</think>", "<｜User｜>", "<｜end▁of▁sentence｜>", "｜DSML｜"])
    def test_markers_stay_text(self, engine: Saying, gpt: Any, claude: Any, marker: str) -> None:
        engine(*"xxxxxx")
        for text in (marker, ""):
            turns: Any = [{"role": "user", "content": f"a{text}b"}]
            chat(gpt, turns), message(claude, turns), respond(gpt, turns)
        added = [sum(map(TOKENIZER.is_added, request.prompt)) for request in engine.requests]
        assert added[:3] == added[3:]

    def test_developers_are_systems_and_any_order_is_taken(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "x", "x")
        turns: Any = [
            *USER,
            *USER,
            {"role": "developer", "content": "short"},
            {"role": "assistant", "content": "b"},
            *USER,
        ]
        chat(gpt, turns)
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")
        respond(gpt, turns)
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")
        message(claude, [*USER, *USER, {"role": "assistant", "content": "b"}, *USER], system="short")
        assert engine.prompt.startswith("<｜begin▁of▁sentence｜>short<｜User｜>hey\n\nhey<｜Assistant｜>")


class TestUsage:
    def test_of_chats(self, engine: Saying, gpt: Any) -> None:
        engine("so it</think>Hello")
        usage = chat(gpt, **ON).usage
        assert usage.completion_tokens_details.reasoning_tokens == len(TOKENIZER.encode("so it"))
        assert usage.completion_tokens == len(TOKENIZER.encode("so it</think>Hello", allow_special=True))
        assert usage.prompt_tokens_details.cached_tokens == CACHED

    @pytest.mark.parametrize("asked", [True, False])
    def test_in_streams_of_chats_only_where_it_was_asked_for(self, engine: Saying, gpt: Any, asked: bool) -> None:
        engine("Hello")
        more = {"stream_options": {"include_usage": True}} if asked else {}
        *others, last = chat(gpt, stream=True, **more)
        assert all(chunk.usage is None for chunk in others) and (last.usage is not None) == asked == (not last.choices)

    def test_of_messages_and_responses(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("Hello", "Hello")
        got = message(claude).usage
        assert got.input_tokens == len(engine.requests[-1].prompt) - CACHED and got.cache_read_input_tokens == CACHED
        got = respond(gpt).usage
        assert got.input_tokens == len(engine.requests[-1].prompt) and got.input_tokens_details.cached_tokens == CACHED

    def test_log_probabilities(self, engine: Saying, gpt: Any) -> None:
        engine("so</think>Hello", "Hello")
        logprobs = chat(gpt, **ON, logprobs=True, top_logprobs=2).choices[0].logprobs
        assert "".join(one.token for one in logprobs.content) == "Hello"
        assert "".join(one["token"] for one in logprobs.reasoning_content).startswith("so")
        item = respond(gpt, include=["message.output_text.logprobs"], top_logprobs=1).output[0]
        assert [len(one.top_logprobs) for one in item.content[0].logprobs] == [1] * len(TOKENIZER.encode("Hello"))


class TestErrors:
    def test_of_calls_that_are_none(self, engine: Saying, gpt: Any, claude: Any) -> None:
        """Where no grammar held the model."""
        broken = call("f", a=(False, "True"))
        engine(broken, broken, broken)
        for ask in (lambda: chat(gpt, tools=[CHAT_TOOL]), lambda: respond(gpt, tools=[TOOL])):
            with pytest.raises(openai.InternalServerError, match="no JSON object"):
                ask()
        with pytest.raises(anthropic.InternalServerError, match="no JSON object"):
            message(claude, tools=[{"name": "f", "input_schema": PARAMETERS}])

    @pytest.mark.parametrize(("reason", "status"), [("error", 500), ("interrupted", 503)])
    def test_of_answers(self, engine: Saying, gpt: Any, claude: Any, reason: str, status: int) -> None:
        failed = Said("Hel", reason, "no numbers")
        engine(failed, failed, failed, failed)
        with pytest.raises(openai.APIStatusError) as error:
            chat(gpt)
        assert error.value.status_code == status and error.value.request_id.startswith("req_")
        with pytest.raises(anthropic.APIStatusError) as other:
            message(claude)
        assert other.value.status_code == status and other.value.request_id.startswith("req_")
        with pytest.raises(openai.APIError):
            list(chat(gpt, stream=True))
        with pytest.raises(anthropic.APIError):
            list(message(claude, stream=True))

    def test_threads_are_told_in_the_form_that_their_client_knows(self, engine: Saying, claude: Any) -> None:
        engine("x")
        thread = claude.beta.messages.thread(model="wavefold", max_tokens=9)
        with pytest.raises(Exception, match="thread"):
            thread.send("hey")
        assert not engine.requests

    def test_bodies_that_are_no_objects(self, gpt: Any, claude: Any) -> None:
        for client, path in ((gpt, "/chat/completions"), (gpt, "/responses"), (claude, "/v1/messages")):
            with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="expected an object"):
                client.post(path, cast_to=object, body=["wavefold", []])


class TestOther:
    def test_nothing_is_stored(self, gpt: Any) -> None:
        for ask in (gpt.responses.retrieve, gpt.responses.delete, gpt.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                ask("resp_1")

    def test_what_a_response_repeats(self, engine: Saying, gpt: Any) -> None:
        engine("x")
        sent: Any = {"metadata": {"a": "b"}, "parallel_tool_calls": False, "tool_choice": "none",
                     "temperature": 0.5, "max_output_tokens": 5, "instructions": "i"}  # fmt: skip
        got = respond(gpt, **sent, tools=[TOOL]).model_dump()
        assert {name: got[name] for name in sent} == sent and got["tools"][0]["name"] == "f"

    def test_a_message_has_no_phase_before_it_is_known(self, engine: Saying, gpt: Any) -> None:
        engine("Now" + CALL)
        events = list(respond(gpt, tools=[TOOL], stream=True))
        items = [
            event.item for event in events if event.type in ("response.output_item.added", "response.output_item.done")
        ]
        assert [getattr(item, "phase", None) for item in items if item.type == "message"] == [None, "commentary"]

    def test_counts_are_what_is_charged(self, engine: Saying, gpt: Any, claude: Any) -> None:
        engine("x", "x")
        tools: Any = [{"name": "f", "input_schema": PARAMETERS}]
        counted = claude.messages.count_tokens(model="wavefold", messages=USER, tools=tools, system="s").input_tokens
        usage = message(claude, tools=tools, system="s").usage
        assert counted == usage.input_tokens + usage.cache_read_input_tokens
        counted = gpt.responses.input_tokens.count(model="wavefold", input="hey", tools=[TOOL]).input_tokens
        assert counted == respond(gpt, tools=[TOOL]).usage.input_tokens

    def test_a_stream_that_its_limit_cut(self, engine: Saying, gpt: Any) -> None:
        """`get_final_response` of openai 3.57 raises then: the events have the answer."""
        engine(Said("Hello", "length"))
        with gpt.responses.stream(model="wavefold", input="hey") as stream:
            last = list(stream)[-1]
        assert last.type == "response.incomplete" and last.response.output_text == "Hello"
        assert last.response.incomplete_details.reason == "max_output_tokens"
