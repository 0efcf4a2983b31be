"""What deepseek-recipe does with a request, and what this server does: each row through the official clients.

The library's own defaults and rules, and where a server must add something, were measured before the server was built.
Here every row is asked of a server that runs (its engine says what a test gives it, saying.py), or has its test
elsewhere. Classes that are not here are in `test_recipe_answers.py`:

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

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from tests.server.rows import CHAT_TOOL, IMAGE, ON, USER, chat, message, respond
from tests.server.saying import Saying


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
    ("top_logprobs", lambda client: chat(client, top_logprobs=2)), ("seed", lambda client: chat(client, seed=2**63)),
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
