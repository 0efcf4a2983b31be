"""`/v1/chat/completions`: OpenAI's chats, as DeepSeek serves them.

Streams have OpenAI's own form: usage comes only if it was asked for, in a chunk without choices before `[DONE]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wavefold.server.protocol import sse
from wavefold.server.protocol.bodies import ObjectFormat, checked, parsed
from wavefold.server.protocol.bodies_chat import ChatBody, FunctionChoice, SchemaFormat
from wavefold.server.protocol.chats import ChatWriter, Shown, Wish, asked_chat
from wavefold.server.protocol.choosing import biases_of, sampling_of
from wavefold.server.protocol.constraints import ANY_OBJECT, Wanted, choice_of
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused, openai_error
from wavefold.server.protocol.protocol import Asked, Protocol
from wavefold.server.recipe import Call, Event

FOR_RECIPE = ("messages", "thinking", "reasoning_effort", "stop", "logprobs", "top_logprobs")


class Chat(Protocol):
    """OpenAI's Chat Completions: a conversation is answered."""

    path = "/v1/chat/completions"
    model_body = ChatBody

    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        return asked_chat(_wish(checked(ChatBody, parsed(body))), headers, context)

    def writer(self, asked: Asked, request_id: str) -> ChatChunks:
        return ChatChunks(asked, f"chatcmpl-{request_id}")


def _wish(body: ChatBody) -> Wish:
    sent = body.model_dump(include=set(FOR_RECIPE), by_alias=True, exclude_none=True, exclude_unset=True)
    for message in sent["messages"]:
        message["role"] = "system" if message["role"] == "developer" else message["role"]
        for name in ("name", "refusal", "annotations", "parsed"):
            message.pop(name, None)
        for call in message.get("tool_calls", ()):
            call["function"].pop("parsed_arguments", None)
        if not message.get("tool_calls"):
            message.pop("tool_calls", None)
        message["content"] = _joined(message.get("content"))
    flags = body.chat_template_kwargs
    asked = None if flags is None else flags.thinking if flags.thinking is not None else flags.enable_thinking
    if asked is not None and body.thinking is None:
        sent["thinking"] = {"type": "enabled" if asked else "disabled"}
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise Refused(
            400, "max_tokens and max_completion_tokens differ; expected one of them", INVALID,
            "max_tokens",
        )  # fmt: skip
    if (longest := body.max_completion_tokens or body.max_tokens) is not None:
        sent["max_tokens"] = longest
    if body.tools:
        sent["tools"] = [
            {"type": "function", "function": tool.function.model_dump(exclude_none=True, exclude={"strict"})}
            for tool in body.tools
        ]
        sent["tool_choice"] = "none" if body.tool_choice == "none" else "auto"
    schema = _schema(body, sent)
    if body.stream_options is not None and not body.stream:
        raise Refused(400, "stream_options without stream", INVALID, "stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused(400, "top_logprobs without logprobs; set logprobs to true", INVALID, "top_logprobs")
    sampling = {**sampling_of(body), "logit_bias": biases_of(body.logit_bias)}
    if body.logprobs:
        sampling["logprobs"] = body.top_logprobs or 0
    return Wish(
        "chat", body.model, sent, bool(body.stream), _wanted(body, schema), sampling, body.n or 1,
        usage=bool(body.stream_options and body.stream_options.include_usage), ids=bool(body.return_token_ids),
        length_field="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
    )  # fmt: skip


def _joined(content: Any) -> Any:
    """A content of one text as a text: what is shown of an answer, clients send back in either form."""
    if not isinstance(content, list):
        return "" if content is None else content
    parts = [{"type": "text", "text": part.get("text", part.get("refusal"))} for part in content]
    return parts[0]["text"] if len(parts) == 1 else parts


def _schema(body: ChatBody, sent: dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(body.response_format, ObjectFormat):
        return ANY_OBJECT
    if not isinstance(body.response_format, SchemaFormat):
        return None
    schema = body.response_format.json_schema.schema_
    if schema is None:
        raise Refused(400, "response_format.json_schema.schema is missing", INVALID, "response_format")
    name = body.response_format.json_schema.name or "answer"
    sent["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
    return schema


def _wanted(body: ChatBody, schema: dict[str, Any] | None) -> Wanted:
    named = body.tool_choice.function.name if isinstance(body.tool_choice, FunctionChoice) else None
    strict = [tool.function.name for tool in body.tools or () if tool.function.strict]
    parallel = body.parallel_tool_calls is not False
    any_object = isinstance(body.response_format, ObjectFormat)
    return Wanted(choice_of(body.tool_choice, named), parallel, strict, schema, any_object=any_object, name=named)


class ChatChunks(ChatWriter):
    """Chunks of a chat, or the whole of it."""

    def __init__(self, asked: Asked, answer_id: str):
        super().__init__(asked, answer_id)
        self._num_told = [0] * len(self.ids)
        """Ids of each answer that a chunk has had."""
        self._is_first = True

    def _frames(self, event: Event, index: int) -> bytes:
        chunk = json.loads(event.data)
        chunk.pop("usage", None)
        chunk["created"] = self.created
        for choice in chunk["choices"]:
            choice["index"] = index
            _complete(choice)
            if self.state.wish.ids:
                choice["token_ids"] = self.ids[index][self._num_told[index] :]
                self._num_told[index] = len(self.ids[index])
        if self._is_first and self.state.wish.ids:
            chunk["prompt_token_ids"] = self.asked.parts[0].prompt.ids
        self._is_first = False
        return sse.frame(sse.dumped(chunk))

    def _last(self) -> bytes:
        if not self.asked.stream:
            return b""
        frames = b""
        if self.state.wish.usage:
            chunk = {
                "id": self.answer_id, "object": "chat.completion.chunk", "created": self.created,
                "model": self.asked.model, "choices": [], "usage": self._usage(),
            }  # fmt: skip
            frames = sse.frame(sse.dumped(chunk))
        return frames + sse.DONE

    def _failure(self, refused: Refused) -> bytes:
        return sse.frame(sse.dumped({"error": openai_error(refused)}))

    def _whole(self) -> bytes:
        answers = [json.loads(stream.whole) for stream in self.streams]
        whole = answers[0]
        choices = [answer["choices"][0] for answer in answers]
        for index, choice in enumerate(choices):
            choice["index"] = index
            _complete(choice)
            for call in choice["message"].get("tool_calls") or ():
                call.pop("index", None)
            if self.state.wish.ids:
                choice["token_ids"] = self.ids[index]
        whole |= {"choices": choices, "usage": self._usage()}
        if self.state.wish.ids:
            whole["prompt_token_ids"] = self.asked.parts[0].prompt.ids
        return sse.dumped(whole).encode()

    def _usage(self) -> dict[str, Any]:
        prompt, answer, cached = self.prompt_tokens, self.completion_tokens, self.cached_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": cached}, "prompt_cache_hit_tokens": cached,
            "prompt_cache_miss_tokens": prompt - cached,
        }  # fmt: skip
        if self.state.reading.thinking:
            usage["completion_tokens_details"] = {
                "reasoning_tokens": sum(map(self.reasoning_tokens, range(len(self.ids))))
            }
        return usage

    def _shown(self, answer: dict[str, Any]) -> Shown:
        message = answer["choices"][0]["message"]
        calls = [
            Call(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        return Shown(message.get("reasoning_content") or "", message.get("content") or "", tuple(calls))


def _complete(choice: dict[str, Any]) -> None:
    """Log probabilities with both lists that clients know."""
    if choice.get("logprobs") is not None:
        choice["logprobs"] = {"content": None, "refusal": None, **choice["logprobs"]}
