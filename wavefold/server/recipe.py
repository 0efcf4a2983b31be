"""DeepSeek's own protocol layer (`deepseek-recipe`): the one place that imports it.

body of a protocol -> `read` -> Reading: a conversation, and how its answer is parsed
                      `rendered` -> the prompt's text, with the places of its special tokens
                      `stream` -> Stream: ids in, events of the protocol out

The library writes prompts and reads answers. What it leaves out of a body without a word, our bodies refuse or honour
before (protocol/bodies_*.py).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from wavefold.engine.logprobs import TokenLogprob

NEEDS = "serving needs deepseek-recipe 0.2.0: pip install 'wavefold[serve]' (Linux and macOS have it)"
MOST_TOKENS = (1 << 31) - 1
NAME = "served"
"""The name under which a body's model is known to the library; answers have the name that the client sent."""

Kind = Literal["chat", "responses", "messages"]
Version = Literal["v4", "v4.1"]
Effort = Literal["low", "high", "xhigh", "max"]
Reason = Literal["stop", "length"]


@functools.cache
def library() -> ModuleType:
    """The library. Raises ValueError, with the command that installs it, where it is absent."""
    try:
        import deepseek_recipe
    except ImportError as error:
        raise ValueError(f"{NEEDS}: {error}") from None
    return deepseek_recipe


class Unreadable(ValueError):
    """A body that the library refuses. `body`: its own error in JSON, or an empty text."""

    def __init__(self, message: str, body: str = ""):
        super().__init__(message)
        self.body = body


class Call(NamedTuple):
    """A call of a tool in an earlier turn."""

    id: str
    name: str
    arguments: str


class Turn(NamedTuple):
    """A message of a conversation. `continued`: the answer goes on where it ends."""

    role: str
    content: str
    reasoning: str
    calls: tuple[Call, ...]
    continued: bool


class Tool(NamedTuple):
    """A tool as the prompt shows it."""

    name: str
    description: str | None
    parameters: Any


class Rendered(NamedTuple):
    """A prompt. `special`: [first, end) of each special token, in characters."""

    text: str
    special: list[tuple[int, int]]


class Vocabulary:
    """A tokenizer as the library uses it, from the text of its `tokenizer.json`."""

    def __init__(self, json_text: str):
        self.tokenizer = library().Tokenizer.from_str(json_text)
        self._encodings = {
            "v4": library().DeepseekV4Encoding().with_tokenizer(self.tokenizer),
            "v4.1": library().DeepseekV41Encoding().with_tokenizer(self.tokenizer),
        }

    def rendered(self, reading: Reading) -> Rendered:
        """Returns the prompt of a conversation as text."""
        prompt = self._encodings[reading.version].render_conversation(reading.conversation)
        return Rendered(prompt.prompt, prompt.special_ranges)

    def encoded(self, reading: Reading) -> list[int]:
        """Returns the prompt of a conversation as ids. Raises ValueError for a tokenizer without a marker of it."""
        try:
            ids: list[int] = self._encodings[reading.version].encode(reading.conversation)
        except RuntimeError as error:
            raise ValueError(f"the chat cannot be encoded: {error}") from None
        return ids


class Reading:
    """A request as the library reads it: its conversation, and how the answer is parsed. Never changed after `read`."""

    def __init__(self, kind: Kind, version: Version, request: Any, echo: Any, namespaces: dict[str, tuple[str, str]]):
        self.kind, self.version = kind, version
        self.conversation = request.conversation
        self.namespaces = namespaces
        self._request, self._echo = request, echo
        self.arguments: dict[str, str] = {}
        """Of calls in messages, by id, as they were sent: the library rounds integers of more than 64 bits."""
        self._first_stage = request.parsing_options.thinking_initial_stage

    @property
    def thinking(self) -> bool:
        return bool(self.conversation.thinking_mode)

    @property
    def reasons_first(self) -> bool:
        """True if the answer begins with reasoning: not where it goes on in a content that was sent."""
        return self._stage is not None and bool(self._stage.starts_in_reasoning())

    @property
    def _stage(self) -> Any:
        """Where parsing begins. An answer that goes on keeps its first line breaks, those of a new one are dropped."""
        last, stages = _last(self.conversation), library().ThinkingInitialStage
        if last is None or not last.prefix:
            return self._first_stage
        if last.content or not self.thinking:
            return stages.ContentContinuation
        return stages.ReasoningContinuation if last.reasoning_content else self._first_stage

    @property
    def tools(self) -> list[Tool]:
        return [Tool(tool.name, tool.description, tool.parameters) for tool in self.conversation.tools]

    @property
    def turns(self) -> list[Turn]:
        return [_turn(message, self.arguments) for message in self.conversation.messages]

    def revised(
        self, efforts: Callable[[Effort], Effort], schema: Any = None, any_object: bool = False, goes_on: bool = False
    ) -> None:  # fmt: skip
        """Puts other efforts in the place of the library's, and a schema of the answer, or JSON's, into the prompt.

        The library itself takes `json_object` only where a message has the word "json". `goes_on`: the answer goes on
        where a last turn of the assistant's ends.

        Raises `Unreadable` for a schema that the library cannot hold, as one with an integer of more than 64 bits.
        """
        old = self.conversation
        effort = old.reasoning_effort and efforts(old.reasoning_effort)
        messages, last = old.messages, _last(old)
        goes_on = goes_on and last is not None and last.role == "assistant" and not last.tool_calls
        if effort == old.reasoning_effort and schema is None and not any_object and not goes_on:
            return
        if goes_on:
            messages = [*messages[:-1], library().AssistantMessage(last.content, last.reasoning_content, prefix=True)]
        form = old.response_schema if schema is None else schema
        self.conversation = _told(
            lambda: library().Conversation(
                messages, thinking_mode=old.thinking_mode, tools=old.tools, tool_choice=old.tool_choice,
                reasoning_effort=effort, response_schema=form,
                response_format="json_object" if any_object else "text",
            )
        )  # fmt: skip

    def max_tokens(self, prompt_tokens: int, window: int) -> int:
        """Returns how long the answer may be, by what was asked or the library's default, cut to the window.

        Raises `Unreadable` for a prompt, or a prompt and an answer as asked, that are longer than the window.
        """
        return int(_told(lambda: self._request.resolve_max_tokens(prompt_tokens, window)))

    def stream(self, vocabulary: Vocabulary, answer_id: str, model: str, created: int, parse_calls: bool) -> Stream:
        """Returns what makes the protocol's events of an answer's tokens."""
        request, response = _dialect(self.kind)
        generator = request.chunk_generator(self._request, answer_id, model)
        if self.kind == "responses":
            generator = generator.with_namespace_tool_map(self.namespaces).with_echo(self._echo)
        options = self._request.parsing_options
        options.parse_json_output = False  # a grammar holds the answer: nothing is blanked out around it
        options.parse_tool_calls = options.parse_tool_calls and parse_calls
        options.thinking_initial_stage = self._stage
        processor = library().StreamProcessor(generator, options, vocabulary.tokenizer)
        return Stream(processor, response, answer_id, model, created)


def _last(conversation: Any) -> Any:
    """Returns the last message, or None: of empty system texts alone the library leaves no message."""
    messages = conversation.messages
    return messages[-1] if messages else None


class Event(NamedTuple):
    """`name`: of the server-sent event, or None. `data`: JSON."""

    name: str | None
    data: str


class Stream:
    """One answer: ids in, events out. `begin`, then `tokens`, then `finish`, in one thread at a time."""

    def __init__(self, processor: Any, response: Any, answer_id: str, model: str, created: int):
        self._processor, self._response = processor, response
        self._answer_id, self._model, self._created = answer_id, model, created
        self._whole: Any = None
        self.arguments: list[str] = []
        """Of the calls in messages, as they were written: a whole answer has {} in place of those that are no JSON."""

    def begin(self, prompt_tokens: int, cached_tokens: int) -> list[Event]:
        self._whole = self._response(self._answer_id, self._model, self._created, prompt_tokens, cached_tokens)
        usage = library().PromptUsage(prompt_tokens=prompt_tokens, prompt_cache_hit_tokens=cached_tokens)
        return self._pushed(library().InferenceChunk.ready(prompt_usage=usage))

    def tokens(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[Event]:
        """Returns the events of tokens of the answer, EOS left out. Nothing more comes once `stopped`."""
        if self.stopped or not ids:
            return []
        entries = [(entry.logprob, list(entry.best)) for entry in logprobs] or None
        return self._pushed(library().InferenceChunk.tokens(list(ids), entries))

    def finish(self, reason: Reason) -> list[Event]:
        """Returns the last events."""
        if self.stopped:
            return []
        reasons = library().InferenceFinishReason
        return self._pushed(library().InferenceChunk.finish(reasons.Length if reason == "length" else reasons.Stop))

    @property
    def stopped(self) -> bool:
        """True once a stop sequence has come, and after `finish`."""
        return bool(self._processor.finished)

    @property
    def whole(self) -> str:
        """The answer so far as the protocol's JSON without a stream."""
        return str(self._whole.to_json())

    def _pushed(self, chunk: Any) -> list[Event]:
        events = []
        for piece in self._processor.push(chunk):
            event = Event(self._response.sse_event_name(piece), piece.to_json())
            self._note_arguments(event)
            events.append(event)
            self._whole.accumulate(piece)
        return events

    def _note_arguments(self, event: Event) -> None:
        if event.name == "content_block_start" and '"tool_use"' in event.data:
            self.arguments.append("")
        elif event.name == "content_block_delta" and '"input_json_delta"' in event.data:
            self.arguments[-1] += json.loads(event.data)["delta"].get("partial_json", "")


def read(kind: Kind, version: Version, body: dict[str, Any], thinking: bool) -> Reading:
    """Returns a checked body as the library reads it. `thinking`: of requests that do not say.

    Raises `Unreadable` for what the library refuses.
    """
    versions = library().ModelVersion
    options = library().ConversionOptions(
        default_thinking_mode=thinking, thinking_max_tokens_upper_bound=MOST_TOKENS,
        non_thinking_max_tokens_upper_bound=MOST_TOKENS,
    ).with_model_alias(NAME, versions.DeepseekV41Flash if version == "v4.1" else versions.DeepseekV4Pro)  # fmt: skip
    request = _told(lambda: _dialect(kind)[0](json.dumps({**body, "model": NAME}, ensure_ascii=False).encode()))
    echo = request.echo() if kind == "responses" else None
    namespaces = _told(lambda: request.namespace_tool_map(options)) if kind == "responses" else {}
    reading = Reading(kind, version, _told(lambda: request.convert(options)), echo, namespaces)
    if kind == "messages":
        reading.arguments = _inputs(body)
    return reading


def _dialect(kind: Kind) -> tuple[Any, Any]:
    names = {"chat": "ChatCompletion", "responses": "Responses", "messages": "Messages"}
    return getattr(library(), f"{names[kind]}Request"), getattr(library(), f"{names[kind]}Response")


def _told(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except library().ConversionError as error:
        raise Unreadable(str(error), error.body) from None
    except (ValueError, OverflowError) as error:
        raise Unreadable(str(error)) from None


def _inputs(body: dict[str, Any]) -> dict[str, str]:
    blocks = [block for turn in body["messages"] if isinstance(turn["content"], list) for block in turn["content"]]
    return {block["id"]: json.dumps(block["input"]) for block in blocks if block["type"] == "tool_use"}


def _turn(message: Any, arguments: dict[str, str]) -> Turn:
    calls = tuple(Call(call.id, call.name, arguments.get(call.id, call.arguments)) for call in message.tool_calls or ())
    return Turn(message.role, message.content, message.reasoning_content or "", calls, message.prefix)
