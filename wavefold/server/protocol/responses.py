"""`/v1/responses`: OpenAI's newer protocol, without a memory. A request holds all of its history.

`previous_response_id`, `conversation`, items by reference, tools that the service would run and `store` are refused by
name: the library would answer as if they were not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from wavefold.server.protocol import sse
from wavefold.server.protocol.bodies import ObjectFormat, checked, parsed
from wavefold.server.protocol.bodies_responses import (
    FunctionTool,
    InputTokensBody,
    NamedChoice,
    NamespaceTool,
    ResponsesBody,
    SchemaFormat,
)  # fmt: skip
from wavefold.server.protocol.chats import ChatWriter, Shown, Wish, asked_chat, prompt_ids, read
from wavefold.server.protocol.choosing import sampling_of
from wavefold.server.protocol.constraints import ANY_OBJECT, Wanted, choice_of
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused
from wavefold.server.protocol.protocol import Asked, Protocol
from wavefold.server.recipe import Call, Event

HARMLESS = ("status", "phase", "parsed", "parsed_arguments", "caller", "async_")
UNKNOWN_TO_CLIENTS = ("content_filters", "frequency_penalty", "presence_penalty", "store")
ENDS = ("response.completed", "response.incomplete", "response.failed")


class Responses(Protocol):
    """OpenAI's Responses: a conversation is answered, and nothing of it is stored."""

    path = "/v1/responses"
    model_body = ResponsesBody

    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        return asked_chat(_wish(checked(ResponsesBody, parsed(body))), headers, context)

    def writer(self, asked: Asked, request_id: str) -> ResponseEvents:
        return ResponseEvents(asked, f"resp_{request_id}")


def count_responses(body: bytes, headers: Mapping[str, str], context: Context) -> bytes:
    """`/v1/responses/input_tokens`: the answer to a body. Raises `Refused`."""
    wish = _wish(checked(InputTokensBody, parsed(body)))
    count = len(prompt_ids(read(wish, context), context))
    return sse.dumped({"object": "response.input_tokens", "input_tokens": count}).encode()


def _wish(body: InputTokensBody) -> Wish:
    values = body.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
    names = ("input", "instructions", "max_output_tokens", "temperature", "top_p", "top_logprobs")
    sent = {name: values[name] for name in names if name in values}
    if isinstance(sent["input"], list):
        sent["input"] = [_item(item) for item in sent["input"]]
    if body.reasoning is not None and body.reasoning.effort is not None:
        sent["reasoning"] = {"effort": body.reasoning.effort}
    if body.tools:
        sent["tools"] = [_without_strict(tool) for tool in values["tools"]]
        sent["tool_choice"] = "none" if body.tool_choice == "none" else "auto"
    schema = _schema(body, sent)
    sampling = sampling_of(body)
    if (count := getattr(body, "top_logprobs", None)) is not None or "message.output_text.logprobs" in (
        getattr(body, "include", None) or ()
    ):
        sampling["logprobs"] = count or 0
        sent["top_logprobs"] = count or 0
        sent["include"] = ["message.output_text.logprobs"]
    return Wish(
        "responses", body.model, sent, bool(getattr(body, "stream", False)), _wanted(body, schema), sampling,
        echo=_echo(body, values), length_field="max_output_tokens",
    )  # fmt: skip


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """An item without what changes nothing; a message of developers is one of the system."""
    kept = {name: value for name, value in item.items() if name not in HARMLESS}
    if kept.get("role") == "developer":
        kept["role"] = "system"
    if isinstance(kept.get("content"), list) and kept.get("type") != "reasoning":
        kept["content"] = [_part(part) for part in kept["content"]]
    if kept.get("type") == "reasoning":
        kept.setdefault("summary", [])
    return kept


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "refusal":
        return {"type": "output_text", "text": part["refusal"]}
    return {"type": part["type"], "text": part["text"]}


def _without_strict(tool: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in tool.items() if name not in ("strict", "output_schema", "allowed_callers")}
    if kept["type"] == "namespace":
        kept["tools"] = [_without_strict(one) for one in kept["tools"]]
    return kept


def _schema(body: InputTokensBody, sent: dict[str, Any]) -> dict[str, Any] | None:
    form = body.text.format if body.text is not None else None
    if isinstance(form, ObjectFormat):
        return ANY_OBJECT
    if isinstance(form, SchemaFormat):
        sent["text"] = {"format": {"type": "json_schema", "name": form.name, "schema": form.schema_}}
        return form.schema_
    return None


def _wanted(body: InputTokensBody, schema: dict[str, Any] | None) -> Wanted:
    named = body.tool_choice.name if isinstance(body.tool_choice, NamedChoice) else None
    strict = _strict(body.tools or ())
    choice, parallel = choice_of(body.tool_choice, named), body.parallel_tool_calls is not False
    any_object = body.text is not None and isinstance(body.text.format, ObjectFormat)
    return Wanted(choice, parallel, strict, schema, "text.format", any_object, named)


def _strict(tools: Sequence[Any]) -> list[str]:
    """The names of strict tools, as prompts have them. Raises Refused for one that another tool has there, too."""
    names: Counter[str] = Counter()
    strict = []
    for tool in tools:
        if isinstance(tool, NamespaceTool):
            named = [(f"{tool.name}__{one.name}", one.strict) for one in tool.tools]
        else:
            named = [(tool.name, isinstance(tool, FunctionTool) and tool.strict)]
        names.update(name for name, _ in named)
        strict += [name for name, is_strict in named if is_strict]
    for name in strict:
        if names[name] > 1:
            raise Refused(400, f"two tools are called {name!r} in a prompt, where a namespace and two underscores "
                          "stand before a name, and one is strict; rename one", INVALID, "tools")  # fmt: skip
    return strict


def _echo(body: InputTokensBody, values: dict[str, Any]) -> dict[str, Any]:
    """What a response repeats of its request, where the library does not say it as it was sent."""
    choice = body.tool_choice or "auto"
    text = values.get("text") or {}
    tools = [
        {"parameters": None, "strict": None, **tool} if tool["type"] == "function" else tool
        for tool in values.get("tools", ())
    ]
    return {
        "metadata": values.get("metadata", {}), "parallel_tool_calls": body.parallel_tool_calls is not False,
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(), "tools": tools,
        "text": {"format": {"type": "text"}, "verbosity": "medium", **text},
        "user": values.get("user"), "prompt_cache_key": values.get("prompt_cache_key"),
        "safety_identifier": values.get("safety_identifier"), "top_logprobs": values.get("top_logprobs", 0),
    }  # fmt: skip


class ResponseEvents(ChatWriter):
    """Events of a response, or the whole of it."""

    def __init__(self, asked: Asked, answer_id: str):
        super().__init__(asked, answer_id)
        self._number = 0

    def _frames(self, event: Event, index: int) -> bytes:
        data = json.loads(event.data)
        self._number = data["sequence_number"] + 1
        if "response" in data:
            self._correct(data["response"], data["type"] in ENDS)
        if data["type"] == "response.output_item.added":
            data["item"].pop("phase", None)  # known when the item is done: a call may follow
        _known(data.get("item", {}))
        for entry in data.get("logprobs", ()):  # of pieces of text, whose entries have no bytes
            for one in (entry, *entry["top_logprobs"]):
                one.pop("bytes", None)
        return sse.frame(sse.dumped(data), event.name)

    def _correct(self, response: dict[str, Any], has_ended: bool) -> None:
        for name in UNKNOWN_TO_CLIENTS:
            response.pop(name, None)
        response.update(self.state.wish.echo)
        response["created_at"] = self.created
        for item in response["output"]:
            _known(item)
        if has_ended:
            response["usage"] = self._usage()

    def _failure(self, refused: Refused) -> bytes:
        data = {
            "type": "error", "code": refused.code, "message": refused.message, "param": refused.param,
            "sequence_number": self._number,
        }  # fmt: skip
        return sse.frame(sse.dumped(data), "error")

    def _whole(self) -> bytes:
        whole = json.loads(self.streams[0].whole)
        self._correct(whole, True)
        return sse.dumped(whole).encode()

    def _usage(self) -> dict[str, Any]:
        prompt, answer = self.prompt_tokens, self.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": answer, "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens(0)},
            "total_tokens": prompt + answer,
        }  # fmt: skip

    def _shown(self, answer: dict[str, Any]) -> Shown:
        reasoning = content = ""
        calls = []
        for item in answer["output"]:
            if item["type"] == "reasoning":
                reasoning += "".join(part["text"] for part in item["content"])
            elif item["type"] == "message":
                content += "".join(part["text"] for part in item["content"])
            elif item["type"] == "function_call":
                names = {local: name for name, local in self.state.reading.namespaces.items()}
                name = names.get((item.get("namespace", ""), item["name"]), item["name"])
                calls.append(Call(item["call_id"], name, item["arguments"]))
            elif item["type"] == "custom_tool_call":
                calls.append(Call(item["call_id"], item["name"], json.dumps({"input": item["input"]})))
        return Shown(reasoning, content, tuple(calls))


def _known(item: dict[str, Any]) -> None:
    """Takes out of an item what its type does not have."""
    if item.get("type") == "custom_tool_call":
        item.pop("status", None)
