"""Bodies of `/v1/completions`: OpenAI's older protocol of texts, with DeepSeek's `suffix` for a hole in the middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from wavefold.server.protocol.bodies import (
    BY_FORM,
    Body,
    Harmless,
    Many,
)  # fmt: skip
from wavefold.server.protocol.bodies_chat import StreamOptions
from wavefold.server.protocol.choosing import (
    Biases,
    MinP,
    NumLogprobs,
    Penalty,
    Repetition,
    ReturnIds,
    Seed,
    Share,
    StopText,
    Temperature,
    TopK,
)  # fmt: skip

MOST_PARTS = 128
"""Prompts times `n`."""
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Ids = Annotated[Many[TokenId], Field(min_length=1)]


def _form(value: Any) -> str:
    if isinstance(value, str):
        return "~text"
    first = value[0] if isinstance(value, list) and value else None
    return "~ids" if isinstance(first, int) else "~lists" if isinstance(first, list) else "~texts"


Prompts = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[Ids, Tag("~ids")]
    | Annotated[Annotated[Many[Ids], Field(max_length=MOST_PARTS)], Tag("~lists")]
    | Annotated[Annotated[Many[str], Field(min_length=1, max_length=MOST_PARTS)], Tag("~texts")],
    Discriminator(_form),
]
MOST_STOPS = 64
Stops = Annotated[
    Annotated[StopText, Tag("~text")]
    | Annotated[Annotated[Many[StopText], Field(max_length=MOST_STOPS)], Tag("~parts")],
    BY_FORM,
]


class CompletionBody(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens", "stop_sequences": "stop",
        "top_logprobs": "logprobs, a number here", "messages": "prompt, or ask /v1/chat/completions",
    }  # fmt: skip
    model: str
    prompt: Prompts = Field(description="A text, token ids, or a list of texts or of lists of ids.")
    suffix: str | None = Field(None, description="The text after the hole that the answer fills.")
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = Field(None, description="16; 0 only with `echo`.")
    n: Annotated[int, Field(ge=1, le=MOST_PARTS)] | None = None
    best_of: Literal[1] | None = None
    echo: bool | None = None
    logprobs: NumLogprobs | None = None
    return_token_ids: ReturnIds | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    logit_bias: Biases | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    user: Harmless


def prompts_of(prompts: str | list[Any]) -> list[str | list[int]]:
    """Returns each prompt, a text or ids."""
    if isinstance(prompts, str) or isinstance(prompts[0], int):
        return [prompts]
    return list(prompts)
