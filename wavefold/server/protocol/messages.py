"""`/v1/messages`: Anthropic's protocol, and the number of tokens that a request has.

`thread`, which their client's tool runner sends by default, is refused in the form on which it goes on with the whole
history. Otherwise an answer would come without the turns before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wavefold.server.protocol import sse
from wavefold.server.protocol.bodies import checked, parsed
from wavefold.server.protocol.bodies_messages import AutoChoice, CountBody, MessagesBody, ToolChoice
from wavefold.server.protocol.chats import ChatWriter, Shown, Wish, asked_chat, prompt_ids, read
from wavefold.server.protocol.choosing import sampling_of
from wavefold.server.protocol.constraints import Wanted
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused, anthropic_body
from wavefold.server.protocol.protocol import Asked, Protocol
from wavefold.server.recipe import Call, Event

THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


class Messages(Protocol):
    """Anthropic's Messages: a conversation is answered."""

    path = "/v1/messages"
    model_body = MessagesBody

    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        return asked_chat(_wish(checked(MessagesBody, _values(body))), headers, context)

    def writer(self, asked: Asked, request_id: str) -> MessageEvents:
        return MessageEvents(asked, f"msg_{request_id}", request_id)

    def error(self, refused: Refused, request_id: str) -> bytes:
        return anthropic_body(refused, request_id)


def count_messages(body: bytes, headers: Mapping[str, str], context: Context) -> bytes:
    """`/v1/messages/count_tokens`: the answer to a body. Raises `Refused`."""
    wish = _wish(checked(CountBody, _values(body)))
    return sse.dumped({"input_tokens": len(prompt_ids(read(wish, context), context))}).encode()


def _values(body: bytes) -> dict[str, Any]:
    values = parsed(body)
    if values.get("thread") is not None:
        raise Refused(400, "threads are not kept here; send all messages", INVALID, "thread", THREADS)
    values.pop("thread", None)
    return values


def _wish(body: CountBody | MessagesBody) -> Wish:
    names = ("messages", "system", "thinking", "max_tokens", "stop_sequences")
    values = body.model_dump(include={*names, "tools"}, by_alias=True, exclude_none=True, exclude_unset=True)
    sent = {name: values[name] for name in names if name in values}
    for message in sent["messages"]:
        message["content"] = _blocks(message["content"])
    config = body.output_config
    if config is not None and config.effort is not None:
        sent["output_config"] = {"effort": config.effort}
    if "thinking" in sent:
        sent["thinking"] = {"type": sent["thinking"]["type"]}
    if body.tools:
        sent["tools"] = [
            {name: value for name, value in tool.items() if name in ("name", "description", "input_schema")}
            for tool in values["tools"]
        ]
        is_none = isinstance(body.tool_choice, AutoChoice) and body.tool_choice.type == "none"
        sent["tool_choice"] = {"type": "none" if is_none else "auto"}
    return Wish(
        "messages", body.model, sent, bool(getattr(body, "stream", False)), _wanted(body), sampling_of(body),
    )  # fmt: skip


def _blocks(content: Any) -> Any:
    """Blocks without what changes nothing."""
    if isinstance(content, str):
        return content
    blocks = []
    for block in content:
        kept = {name: value for name, value in block.items() if name not in ("cache_control", "citations", "caller")}
        if isinstance(kept.get("content"), list):
            kept["content"] = _blocks(kept["content"])
        if kept["type"] == "thinking":
            kept.setdefault("signature", "")
        blocks.append(kept)
    return blocks


def _wanted(body: CountBody | MessagesBody) -> Wanted:
    choice = body.tool_choice
    named = choice.name if isinstance(choice, ToolChoice) else None
    kind = "auto" if choice is None else "required" if choice.type in ("any", "tool") else choice.type
    strict = [tool.name for tool in body.tools or () if tool.strict]
    schema = body.output_config.format.schema_ if body.output_config and body.output_config.format else None
    return Wanted(
        kind, not (choice is not None and choice.disable_parallel_tool_use), strict, schema, "output_config.format",
        name=named,
    )  # fmt: skip


class MessageEvents(ChatWriter):
    """Events of a message, or the whole of it."""

    keep_alive = sse.PING

    def __init__(self, asked: Asked, answer_id: str, request_id: str):
        super().__init__(asked, answer_id)
        self.request_id = request_id
        self._is_full = False

    def _finished(self, reason: str, *others: Any) -> bytes:
        self._is_full = reason == "context"
        return super()._finished(reason, *others)

    def _frames(self, event: Event, index: int) -> bytes:
        if event.name != "message_delta":
            return sse.frame(event.data, event.name)
        data = json.loads(event.data)
        data["usage"] = self._usage()
        del data["usage"]["service_tier"]
        self._correct(data["delta"])
        return sse.frame(sse.dumped(data), event.name)

    def _correct(self, ended: dict[str, Any]) -> None:
        if self._is_full and ended["stop_reason"] == "max_tokens":
            ended["stop_reason"] = "model_context_window_exceeded"

    def _failure(self, refused: Refused) -> bytes:
        return sse.frame(anthropic_body(refused, self.request_id).decode(), "error")

    def _whole(self) -> bytes:
        whole = json.loads(self.streams[0].whole)
        whole["usage"] = self._usage()
        self._correct(whole)
        called = [block for block in whole["content"] if block["type"] == "tool_use"]
        for block, arguments in zip(called, self.streams[0].arguments, strict=True):
            block["input"] = ended_members(arguments)  # the library's own are {} if cut off, and round long integers
        return sse.dumped(whole).encode()

    def _usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "input_tokens": self.prompt_tokens - self.cached_tokens, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached_tokens, "output_tokens": self.completion_tokens,
            "service_tier": "standard",
        }  # fmt: skip
        if self.state.reading.thinking:
            usage["output_tokens_details"] = {"thinking_tokens": self.reasoning_tokens(0)}
        return usage

    def _shown(self, answer: dict[str, Any]) -> Shown:
        blocks = answer["content"]
        said = {
            kind: "".join(block[kind] for block in blocks if block["type"] == kind) for kind in ("thinking", "text")
        }
        called = [block for block in blocks if block["type"] == "tool_use"]
        calls = [
            Call(block["id"], block["name"], arguments)
            for block, arguments in zip(called, self.streams[0].arguments, strict=True)
        ]
        return Shown(said["thinking"], said["text"], tuple(calls))


def ended_members(arguments: str) -> dict[str, Any]:
    """Returns the members of an object; of one that is cut off, without the last, which may be half of a value.

    Anthropic's client keeps a cut number of a stream as if it were whole (findings/anthropic_stream_cut_numbers.sh).
    `stop_reason` says that the call is not whole, and its tool runner does not run it.
    """
    members: dict[str, Any] = {}
    decoder, at = json.JSONDecoder(), 1
    try:
        while True:
            name, at = decoder.raw_decode(arguments, _not_blank(arguments, at))
            at = _not_blank(arguments, at)
            if arguments[at] != ":":
                return members
            value, at = decoder.raw_decode(arguments, _not_blank(arguments, at + 1))
            at = _not_blank(arguments, at)
            if arguments[at] not in ",}":
                return members
            members[name] = value
            at += 1
    except (ValueError, IndexError, RecursionError):
        return members


def _not_blank(text: str, at: int) -> int:
    """The first place from `at` on without a blank."""
    while text[at : at + 1].isspace():
        at += 1
    return at
