"""Bodies of `/v1/responses` and `/v1/responses/input_tokens`: OpenAI's fields. Nothing is stored: see responses.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, Tag

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
    MinP,
    NumLogprobs,
    Penalty,
    Seed,
    Share,
    Temperature,
    TopK,
)  # fmt: skip


class InputText(Body):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Harmless


class OutputText(Body):
    type: Literal["output_text"]
    text: str
    annotations: Harmless
    logprobs: Harmless
    parsed: Harmless


class Refusal(Body):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[InputText, Tag("~input_text")]
    | Annotated[OutputText, Tag("~output_text")]
    | Annotated[Refusal, Tag("~refusal")],
    by("type"),
]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[AsText | Annotated[Many[Part], Tag("~parts")], BY_FORM]
    id: Harmless
    status: Harmless
    phase: Harmless


class ReasoningText(Body):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(Body):
    type: Literal["reasoning"]
    content: Many[ReasoningText] | None = None
    summary: list[Any] | None = None
    id: Harmless
    status: Harmless
    encrypted_content: Harmless


class CallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: Harmless
    status: Harmless
    parsed_arguments: Harmless
    caller: None = None
    async_: Literal[False] | None = Field(None, validation_alias=AliasChoices("async", "async_"))


class OutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: Annotated[AsText | Annotated[Many[InputText], Tag("~parts")], BY_FORM]
    id: Harmless
    status: Harmless


class CustomCallItem(Body):
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: None = None
    id: Harmless
    status: Harmless


class CustomOutputItem(Body):
    type: Literal["custom_tool_call_output"]
    call_id: str
    output: Annotated[AsText | Annotated[Many[InputText], Tag("~parts")], BY_FORM]
    id: Harmless
    status: Harmless


Item = Annotated[
    Annotated[MessageItem, Tag("~message")]
    | Annotated[ReasoningItem, Tag("~reasoning")]
    | Annotated[CallItem, Tag("~function_call")]
    | Annotated[OutputItem, Tag("~function_call_output")]
    | Annotated[CustomCallItem, Tag("~custom_tool_call")]
    | Annotated[CustomOutputItem, Tag("~custom_tool_call_output")],
    by("type", "message"),
]


class FunctionTool(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "function": "its fields beside type, without it", "input_schema": "it as parameters",
    }  # fmt: skip
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    output_schema: Harmless
    defer_loading: Literal[False] | None = None
    allowed_callers: Many[Literal["direct"]] | None = None


class NamespaceTool(Body):
    type: Literal["namespace"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    tools: Many[FunctionTool]


class PatchTool(Body):
    """The one tool of free text that prompts can show."""

    type: Literal["custom"]
    name: Literal["apply_patch"]
    description: str | None = None
    format: Harmless


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("~function")]
    | Annotated[NamespaceTool, Tag("~namespace")]
    | Annotated[PatchTool, Tag("~custom")],
    by("type"),
]


class NamedChoice(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {"function": "its name beside type, without it"}
    type: Literal["function", "custom"]
    name: str


Choice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("~text")] | Annotated[NamedChoice, Tag("~parts")], BY_FORM
]


class SchemaFormat(Body):
    type: Literal["json_schema"]
    name: str
    schema_: Schema = Field(alias="schema")
    description: Harmless
    strict: bool | None = None


class TextConfig(Body):
    format: (
        Annotated[
            Annotated[TextFormat, Tag("~text")]
            | Annotated[ObjectFormat, Tag("~json_object")]
            | Annotated[SchemaFormat, Tag("~json_schema")],
            by("type"),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Body):
    effort: Efforts | None = None
    summary: Harmless
    generate_summary: Harmless


class StreamOptions(Body):
    include_obfuscation: Harmless


class InputTokensBody(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "messages": "input", "system": "instructions", "response_format": "text.format",
        "output_format": "text.format", "reasoning_effort": "reasoning.effort",
    }  # fmt: skip
    model: str
    input: Annotated[
        AsText | Annotated[Annotated[Many[Item], Field(min_length=1, max_length=MOST_TURNS)], Tag("~parts")], BY_FORM
    ]
    instructions: str | None = None
    tools: Many[AnyTool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    truncation: Literal["disabled"] | None = None


class ResponsesBody(InputTokensBody):
    elsewhere: ClassVar[Mapping[str, str]] = {
        **InputTokensBody.elsewhere, "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens",
        "logprobs": "top_logprobs",
    }  # fmt: skip
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = Field(None, description="Not OpenAI's: the same seed draws the same answer.")
    top_logprobs: NumLogprobs | None = None
    include: Many[Literal["reasoning.encrypted_content", "message.output_text.logprobs"]] | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    user: Harmless
    metadata: dict[str, str] | None = None
    service_tier: Harmless
    prompt_cache_key: Harmless
    prompt_cache_retention: Harmless
    prompt_cache_options: Harmless
    safety_identifier: Harmless
    client_metadata: Harmless
