"""What a client reads of a body that is refused: what is wrong, what is allowed, what to send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.feeding import USER, context
from wavefold.server.protocol import PROTOCOLS, Refused

CHAT, MESSAGES, RESPONSES, COMPLETIONS = (
    "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions",
)  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER}, MESSAGES: {"messages": USER, "max_tokens": 5}, RESPONSES: {"input": "hey"},
    COMPLETIONS: {"prompt": "hey"},
}  # fmt: skip
OBJECT = {"type": "object"}
NO_SCHEMA = {"type": "json_schema", "name": "a", "schema": {"type": "nope"}}
ROLES = "one of 'system', 'developer', 'user', 'assistant', 'tool'"


def refused(path: str, **more: Any) -> Refused:
    body = {"model": "m", **NEEDED[path], **more}
    with pytest.raises(Refused) as error:
        PROTOCOLS[path].asked(json.dumps(body).encode(), {}, context())
    return error.value


@pytest.mark.parametrize(
    ("path", "more", "place", "text"),
    [
        (CHAT, {"messages": ["hi"]}, "messages.0", f"messages.0 is a text; expected an object whose role is {ROLES}"),
        (CHAT, {"messages": [None]}, "messages.0", "messages.0 is null; expected an object"),
        (CHAT, {"messages": [{"content": "a"}]}, "messages.0", f"messages.0 has no role; expected {ROLES}"),
        (CHAT, {"messages": [{"role": None}]}, "messages.0", "messages.0: role null is not supported here; expected"),
        (CHAT, {"response_format": "json"}, "response_format", "response_format is a text; expected an object whose"),
        (MESSAGES, {"tool_choice": "any"}, "tool_choice", "tool_choice is a text; expected an object whose type is"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages.0.content.0",
         "messages.0.content.0 has no type; expected one of 'text', 'tool_result'"),
        (CHAT, {"store": True}, "store", "store = true is not allowed; expected false, since nothing is stored here"),
        (RESPONSES, {"background": True}, "background", "background = true is not allowed; expected false, since noth"),
        (CHAT, {"messages": []}, "messages", "messages = [] is not allowed; expected 1 element or more"),
        (CHAT, {"temperature": 3}, "temperature", "temperature = 3 is not allowed; expected 2 or less"),
        (CHAT, {"stream": 1}, "stream", "stream = 1 is not allowed; expected true or false"),
        (CHAT, {"stream_options": "a"}, "stream_options", 'stream_options = "a" is not allowed; expected an object'),
        (COMPLETIONS, {"prompt": 5}, "prompt", "prompt = 5 is not allowed; expected a text or a list"),
        (CHAT, {"logit_bias": {"99999999": 1}}, "logit_bias", "logit_bias: the model has no token 99999999; expected"),
        (COMPLETIONS, {"logit_bias": {"3072": 1}}, "logit_bias", "logit_bias: the model has no token 3072; expected"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs", "top_logprobs without logprobs; set logprobs to true"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nope"}}}},
         "response_format", ""),
        (RESPONSES, {"text": {"format": NO_SCHEMA}}, "text.format", ""),
    ],
)  # fmt: skip
def test_errors_speak_of_json_and_name_the_field(path: str, more: dict[str, Any], place: str, text: str) -> None:
    error = refused(path, **more)
    assert error.param == place and error.message.startswith(text)


@pytest.mark.parametrize(
    ("path", "more", "text"),
    [
        (CHAT, {"max_token": 5}, "max_token is not known here; did you mean max_tokens?"),
        (CHAT, {"stream_options": {"include_usages": True}, "stream": True},
         "stream_options.include_usages is not known here; did you mean stream_options.include_usage?"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_controll": 1}]}]},
         "messages.0.content.0.cache_controll is not known here; did you mean messages.0.content.0.cache_control?"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}, "input_schema": OBJECT}]},
         "tools.0.input_schema is not a field of this protocol; send it as function.parameters"),
        (RESPONSES, {"max_tokens": 5}, "max_tokens is not a field of this protocol; send max_output_tokens"),
        (RESPONSES, {"response_format": {}}, "response_format is not a field of this protocol; send text.format"),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "function": {}}]},
         "tools.0.function is not a field of this protocol; send its fields beside type, without it"),
        (MESSAGES, {"output_format": {}}, "output_format is not a field of this protocol; send output_config.format"),
        (MESSAGES, {"max_completion_tokens": 5}, "max_completion_tokens is not a field of this protocol; send max_tok"),
        (CHAT, {"frobnicate": 1}, "frobnicate is not supported here; leave it out"),
        (RESPONSES, {"previous_response_id": "r"}, "previous_response_id is not supported here; leave it out"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_told_with_its_remedy(path: str, more: dict[str, Any], text: str) -> None:
    assert refused(path, **more).message.startswith(text)


def test_three_problems_are_told_at_once() -> None:
    error = refused(CHAT, temperature=3, frobnicate=1, n=0, top_p=2)
    assert error.param == "frobnicate"
    assert error.message == (
        "frobnicate is not supported here; leave it out; n = 0 is not allowed; expected 1 or more; "
        "temperature = 3 is not allowed; expected 2 or less; and 1 more"
    )


def test_a_long_name_is_cut() -> None:
    assert len(refused(CHAT, **{"x" * 100_000: 1}).message) < 300


@pytest.mark.parametrize(("body", "text"), [(b"null", "is null"), (b"[]", "is a list"), (b"1", "is a number")])
def test_a_body_that_is_no_object(body: bytes, text: str) -> None:
    with pytest.raises(Refused, match=f"the body {text}; expected an object"):
        PROTOCOLS[CHAT].asked(body, {}, context())


SEEDS = {-1: 2**63 - 1, -7: 2**63 - 7, -(2**63): 0, 0: 0, 2**63 - 1: 2**63 - 1}


@pytest.mark.parametrize("path", NEEDED)
def test_seeds_with_a_sign_and_no_top_k(path: str) -> None:
    """OpenAI's seed is signed, and -1 is vLLM's "no top-k": several front ends send both."""
    for seed, drawn in SEEDS.items():
        body = {"model": "m", **NEEDED[path], "seed": seed, "top_k": -1}
        sampling = PROTOCOLS[path].asked(json.dumps(body).encode(), {}, context()).parts[0].sampling
        assert (sampling.seed, sampling.top_k) == (drawn, 0)


@pytest.mark.parametrize(
    ("path", "more", "place", "counts"),
    [
        (CHAT, {"max_tokens": 50_000}, "max_tokens", "(6 in the messages, 50000 in the completion). max_tokens may"),
        (CHAT, {"max_completion_tokens": 50_000}, "max_completion_tokens", "max_completion_tokens may be 19994 at"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 30_000}]}, "messages",
         "(60004 in the messages, 0 in the completion). Send fewer or shorter messages."),
        (MESSAGES, {"max_tokens": 50_000}, "max_tokens", "max_tokens may be 19994 at most."),
        (RESPONSES, {"max_output_tokens": 50_000}, "max_output_tokens", "(6 in the input, 50000 in max_output_tokens)"),
        (RESPONSES, {"input": "word " * 30_000}, "input", "(60004 in the input, 0 in max_output_tokens). Send a"),
        (COMPLETIONS, {"max_tokens": 50_000}, "max_tokens", "in the prompt, 50000 in the completion). max_tokens may"),
        (COMPLETIONS, {"prompt": [7] * 20_000}, "prompt", "(20000 in the prompt, 0 in the completion). Send a shorter"),
    ],
)  # fmt: skip
def test_the_window_is_the_servers(path: str, more: dict[str, Any], place: str, counts: str) -> None:
    """It was said to be the model's, though --cache-tokens may set it."""
    error = refused(path, **more)
    assert (error.code, error.param) == ("context_length_exceeded", place)
    assert error.message.startswith(
        "This model's maximum context length is 20000 tokens on this server (--cache-tokens, up to the model's own). "
        "However, you requested "
    )
    assert counts in error.message
