"""Bodies of `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

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
    Schema,
    ToolName,
    by,
)  # fmt: skip
from wavefold.server.protocol.choosing import (
    Seed,
    Share,
    StopText,
    Temperature,
    TopK,
)  # fmt: skip


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: Harmless
    citations: Harmless


class ThinkingBlock(Body):
    type: Literal["thinking"]
    thinking: str
    signature: Harmless


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: Harmless
    caller: Harmless
    toolset_name: None = None


ResultTexts = Annotated[AsText | Annotated[Many[TextBlock], Tag("~parts")], BY_FORM]


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: ResultTexts | None = None
    is_error: bool | None = Field(None, description="Accepted; say in the content what went wrong.")
    cache_control: Harmless
    toolset_name: None = None


UserBlock = Annotated[Annotated[TextBlock, Tag("~text")] | Annotated[ToolResultBlock, Tag("~tool_result")], by("type")]
AnswerBlock = Annotated[
    Annotated[TextBlock, Tag("~text")]
    | Annotated[ThinkingBlock, Tag("~thinking")]
    | Annotated[ToolUseBlock, Tag("~tool_use")],
    by("type"),
]


class UserTurn(Body):
    role: Literal["user"]
    content: Annotated[AsText | Annotated[Many[UserBlock], Tag("~parts")], BY_FORM]


class SystemTurn(Body):
    role: Literal["system"]
    content: ResultTexts


class AnswerTurn(Body):
    role: Literal["assistant"]
    content: Annotated[AsText | Annotated[Many[AnswerBlock], Tag("~parts")], BY_FORM]


AnyTurn = Annotated[
    Annotated[UserTurn, Tag("~user")]
    | Annotated[AnswerTurn, Tag("~assistant")]
    | Annotated[SystemTurn, Tag("~system")],
    by("role"),
]


class MessageTool(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "parameters": "it as input_schema", "function": "name, description and input_schema without it",
    }  # fmt: skip
    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: Schema
    strict: bool | None = None
    cache_control: Harmless
    eager_input_streaming: Harmless
    input_examples: Harmless
    allowed_callers: Many[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None


class AutoChoice(Body):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class ToolChoice(Body):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


Choice = Annotated[
    Annotated[AutoChoice, Tag("~auto")]
    | Annotated[AutoChoice, Tag("~any")]
    | Annotated[AutoChoice, Tag("~none")]
    | Annotated[ToolChoice, Tag("~tool")],
    by("type"),
]


class ThinkingConfig(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Harmless
    display: Harmless


class JsonFormat(Body):
    type: Literal["json_schema"]
    schema_: Schema = Field(alias="schema")


class OutputConfig(Body):
    effort: Efforts | None = None
    format: JsonFormat | None = None


class KeptThinking(Body):
    """An edit that takes nothing away, which Claude Code sends with every request."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(Body):
    edits: Many[KeptThinking] | None = None


class CountBody(Body):
    elsewhere: ClassVar[Mapping[str, str]] = {
        "output_format": "output_config.format", "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort", "reasoning": "output_config.effort", "input": "messages",
        "prompt": "messages", "instructions": "system",
    }  # fmt: skip
    model: str
    messages: Annotated[Many[AnyTurn], Field(min_length=1, max_length=MOST_TURNS)]
    system: ResultTexts | None = None
    tools: Many[MessageTool] | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: Harmless
    speed: Literal["standard"] | None = None


class MessagesBody(CountBody):
    elsewhere: ClassVar[Mapping[str, str]] = {
        **CountBody.elsewhere, "max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens",
        "stop": "stop_sequences",
    }  # fmt: skip
    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[Many[StopText], Field(max_length=16)] | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    seed: Seed | None = Field(None, description="Not Anthropic's: the same seed draws the same answer.")
    metadata: Harmless
    service_tier: Harmless
    inference_geo: Harmless
