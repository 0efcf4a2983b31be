"""Bodies of `/v1/chat/completions`: OpenAI's fields, DeepSeek's (`thinking`, `prefix`), and a few of other servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Tag

from wavefold.server.protocol.bodies import (
    BY_FORM,
    MOST_TURNS,
    AsText,
    Body,
    Count,
    Efforts,
    Harmless,
    Many,
    ObjectFormat,
    Schema,
    TextFormat,
    ToolName,
    by,
)  # fmt: skip
from wavefold.server.protocol.choosing import (
    Biases,
    MinP,
    NumLogprobs,
    Penalty,
    Repetition,
    ReturnIds,
    Seed,
    Share,
    Stops,
    Temperature,
    TopK,
)  # fmt: skip

MOST_ANSWERS = 16


class TextPart(Body):
    type: Literal["text"]
    text: str
    cache_control: Harmless


class RefusalPart(Body):
    type: Literal["refusal"]
    refusal: str


Texts = Annotated[AsText | Annotated[Many[TextPart], Tag("~parts")], BY_FORM]
AnswerPart = Annotated[Annotated[TextPart, Tag("~text")] | Annotated[RefusalPart, Tag("~refusal")], by("type")]
AnswerTexts = Annotated[AsText | Annotated[Many[AnswerPart], Tag("~parts")], BY_FORM]


class SystemTurn(Body):
    role: Literal["system", "developer"]
    content: Texts
    name: Harmless


class UserTurn(Body):
    role: Literal["user"]
    content: Texts
    name: Harmless


class CalledFunction(Body):
    name: str
    arguments: str
    parsed_arguments: Harmless


class CallOfTool(Body):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Harmless


class AssistantTurn(Body):
    role: Literal["assistant"]
    content: AnswerTexts | None = None
    reasoning_content: str | None = None
    tool_calls: Many[CallOfTool] | None = None
    prefix: bool | None = Field(None, description="The answer goes on where this content ends: of the last message.")
    refusal: Harmless
    name: Harmless
    annotations: Harmless
    parsed: Harmless
    audio: None = None
    function_call: None = None


class ToolTurn(Body):
    role: Literal["tool"]
    content: Texts
    tool_call_id: str
    name: Harmless


class Function(Body):
    name: ToolName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionTool(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "input_schema": "it as function.parameters",
        **{name: f"it as function.{name}" for name in ("name", "description", "parameters", "strict")},
    }
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class FunctionChoice(Body):
    type: Literal["function"]
    function: NamedFunction


Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("~text")] | Annotated[FunctionChoice, Tag("~parts")], BY_FORM
]


class NamedSchema(Body):
    name: str | None = None
    description: Harmless
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Harmless


class TemplateFlags(Body):
    thinking: bool | None = None
    enable_thinking: bool | None = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Harmless


AnyTurn = Annotated[
    Annotated[SystemTurn, Tag("~system")]
    | Annotated[SystemTurn, Tag("~developer")]
    | Annotated[UserTurn, Tag("~user")]
    | Annotated[AssistantTurn, Tag("~assistant")]
    | Annotated[ToolTurn, Tag("~tool")],
    by("role"),
]
Format = Annotated[
    Annotated[TextFormat, Tag("~text")]
    | Annotated[ObjectFormat, Tag("~json_object")]
    | Annotated[SchemaFormat, Tag("~json_schema")],
    by("type"),
]


class ChatBody(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "max_output_tokens": "max_completion_tokens", "stop_sequences": "stop", "input": "messages",
        "prompt": "messages", "system": "a message of the role system", "instructions": "a message of the role system",
        "functions": "tools", "function_call": "tool_choice", "reasoning": "reasoning_effort",
        "text": "response_format", "output_format": "response_format",
        "output_config": "reasoning_effort, and response_format for its format",
    }  # fmt: skip
    model: str
    messages: Annotated[Many[AnyTurn], Field(min_length=1, max_length=MOST_TURNS)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
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
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    return_token_ids: ReturnIds | None = None
    tools: Many[FunctionTool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    thinking: Thinking | None = None
    reasoning_effort: Efforts | None = None
    chat_template_kwargs: TemplateFlags | None = None
    modalities: Many[Literal["text"]] | None = None
    store: Literal[False] | None = None
    user: Harmless
    metadata: Harmless
    service_tier: Harmless
    prompt_cache_key: Harmless
    prompt_cache_retention: Harmless
    safety_identifier: Harmless
