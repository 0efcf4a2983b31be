"""What the three protocols of chats share: a body that recipe reads becomes a prompt, its events become an answer.

body -> Wish -> `asked_chat`: prompt (recipe, or the checkpoint's template), constraint, sampling -> Asked
                `ChatWriter`: ids -> recipe's events -> a protocol's own corrections -> frames
"""

from __future__ import annotations

import json
import secrets
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wavefold.chat import Prompt
from wavefold.chat.special_tokens import BOS, END_THINK, EOS
from wavefold.chat.template import rendered
from wavefold.engine import Sampling
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.usage import Usage
from wavefold.server import recipe
from wavefold.server.protocol.choosing import SEEDS, check_biases
from wavefold.server.protocol.constraints import Wanted, held
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused, of_recipe, too_long
from wavefold.server.protocol.protocol import Asked, Part, Writer, wants_progress
from wavefold.server.protocol.replay import Answered
from wavefold.server.recipe import Call, Event, Kind, Reading, Stream

TEMPLATE_SECONDS = 2


class Wish(NamedTuple):
    """A checked request. `body`: for recipe, without what it would leave out. `sampling`: fields of `Sampling`.

    `echo`: what the protocol repeats in its answers. `usage`: usage is wanted in a stream. `ids`: token ids are wanted.
    `length_field`: where the body says how long the answer may be.
    """

    kind: Kind
    model: str
    body: dict[str, Any]
    stream: bool
    wanted: Wanted
    sampling: dict[str, Any]
    answers: int = 1
    usage: bool = True
    echo: Mapping[str, Any] = {}
    ids: bool = False
    length_field: str = "max_tokens"


class ChatState(NamedTuple):
    """What a writer needs of its request."""

    wish: Wish
    reading: Reading
    context: Context
    calls: bool
    """The answer may have calls of tools."""


def read(wish: Wish, context: Context) -> Reading:
    """Returns a request as recipe reads it, with the efforts of the model's profile. Raises `Refused`."""
    profile = context.chats
    context.check_name(wish.model)
    try:
        reading = recipe.read(wish.kind, profile.version, wish.body, context.thinks)
        is_messages = wish.kind == "messages"
        schema = wish.wanted.schema if is_messages else None
        reading.revised(profile.effort, schema, wish.wanted.any_object, goes_on=is_messages)
    except recipe.Unreadable as error:
        raise _refused(error, wish.wanted.schema_field) from None
    if profile.template is not None and (reading.tools or reading.thinking):
        named = "tools" if reading.tools else "thinking"
        raise Refused(400, f"{named} are not known to this model's chat template; leave them out", INVALID, named)
    return reading


def _refused(error: recipe.Unreadable, schema_field: str) -> Refused:
    refused = of_recipe(error.body) if error.body else Refused(400, str(error), INVALID)
    places = {"Invalid json schema": schema_field, "Invalid schema for function": "tools"}
    refused.param = next((place for said, place in places.items() if refused.message.startswith(said)), None)
    return refused


def _unfitting(error: recipe.Unreadable, wish: Wish, num_prompt: int, window: int) -> Refused:
    refused = _refused(error, wish.wanted.schema_field)
    if "maximum context length" not in refused.message:
        return refused
    longest = int(wish.body.get("max_output_tokens", wish.body.get("max_tokens", 0)))
    return too_long(window, num_prompt, longest, "input" if wish.kind == "responses" else "messages", wish.length_field)


def prompt_ids(reading: Reading, context: Context) -> list[int]:
    """Returns the prompt: earlier answers as they were sampled, where they are known. Raises `Refused`."""
    try:
        if context.chats.template is not None:
            return _by_template(context.chats.template, reading, context)
        turns = reading.turns
        if any(turn.role == "assistant" for turn in turns):
            replayed = context.replay.encoded(context.vocabulary.rendered(reading), turns)
            if replayed is not None:
                return replayed
        return context.vocabulary.encoded(reading)
    except ValueError as error:
        raise Refused.of(error, "messages") from None


def _by_template(template: str, reading: Reading, context: Context) -> list[int]:
    """A chat by the checkpoint's template: markers in contents stay text, those that the template writes are tokens."""
    tokenizer = context.tokenizer
    said = "".join(turn.content for turn in reading.turns)
    mark = next((chr(code) for code in range(0xFDD0, 0xFDF0) if chr(code) not in said + template), None)
    if mark is None:
        raise ValueError("the chat holds all 32 noncharacters from U+FDD0 on; expected one that is free")

    def split(text: str) -> str:
        for marker in tokenizer.added_texts:
            text = text.replace(marker, marker[:1] + mark + marker[1:])
        return text

    messages = [{"role": turn.role, "content": split(turn.content)} for turn in reading.turns]
    end = mark * 2 if reading.turns[-1].continued else ""  # of the text that the answer goes on with
    messages[-1]["content"] += end
    chat = {
        "messages": messages, "add_generation_prompt": not end,
        "bos_token": BOS if tokenizer.has(BOS) else "", "eos_token": EOS if tokenizer.has(EOS) else "",
    }  # fmt: skip
    text = rendered(template, [chat], TEMPLATE_SECONDS)[0]
    if end and text.count(end) != 1:
        raise ValueError(
            f"the template writes the last turn {text.count(end)} times, and an answer goes on with it: expected once; "
            "end the messages with a turn of the user"
        )
    text = text.partition(end)[0] if end else text
    ids: list[int] = []
    for piece in text.split(mark):
        ids += tokenizer.encode(piece, allow_special=True)
    return ids


def asked_chat(wish: Wish, headers: Mapping[str, str], context: Context) -> Asked:
    """Returns the request with its prompt encoded. Raises `Refused`."""
    reading = read(wish, context)
    tools = reading.tools
    if wish.wanted.schema is not None and any(turn.continued and turn.content for turn in reading.turns):
        raise Refused(
            400, f"a prefix that is not empty beside {wish.wanted.schema_field} is not held here: the answer would "
            "begin anew", INVALID, "messages",
        )  # fmt: skip
    fields = held(wish.wanted, tools, reading.reasons_first, context)
    ids = prompt_ids(reading, context)
    try:
        longest = reading.max_tokens(len(ids), context.window)
    except recipe.Unreadable as error:
        raise _unfitting(error, wish, len(ids), context.window) from None
    calls = bool(tools) and wish.wanted.choice != "none"
    sampling = {"max_tokens": longest, "stop_ids": context.turn_ids, **wish.sampling, **fields}
    parts = tuple(Part(Prompt(ids), one) for one in samplings(sampling, wish.answers, context))
    return Asked(wish.model, parts, wish.stream, wants_progress(headers), ChatState(wish, reading, context, calls))


def samplings(fields: dict[str, Any], count: int, context: Context) -> list[Sampling]:
    """Returns one sampling for each of `count` answers, with seeds that differ. Raises `Refused`.

    Without a seed the answers are others each time.
    """
    seed = fields.pop("seed", None)
    seed = secrets.randbelow(SEEDS) if seed is None else seed
    check_biases(fields.get("logit_bias") or {}, context.vocab_size)
    try:
        found = [Sampling(**fields, seed=(seed + number) % SEEDS) for number in range(count)]
        found[0].check(context.vocab_size)
    except ValueError as error:
        raise Refused(400, str(error), INVALID) from None
    return found


class Shown(NamedTuple):
    """What a client was shown of an answer."""

    reasoning: str
    content: str
    calls: tuple[Call, ...]


class ChatWriter(Writer):
    """Feeds recipe's parser with tokens, and corrects the protocol's events."""

    def __init__(self, asked: Asked, answer_id: str):
        super().__init__(asked)
        self.state: ChatState = asked.state
        self.created = int(time.time())
        self.answer_id = answer_id
        state = self.state
        self.streams: list[Stream] = [
            state.reading.stream(state.context.vocabulary, answer_id, asked.model, self.created, state.calls)
            for _ in asked.parts
        ]
        self.ids: list[list[int]] = [[] for _ in asked.parts]
        self.usages: list[Usage] = [Usage(part.prompt.num_tokens) for part in asked.parts]
        self._finishes: list[str] = [""] * len(asked.parts)

    def begin(self, prompt_tokens: int, cached_tokens: int, index: int = 0) -> bytes:
        self.usages[index] = Usage(prompt_tokens, cached_tokens=cached_tokens)
        return self._written(self.streams[index].begin(prompt_tokens, cached_tokens), index)

    def tokens(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob], index: int = 0) -> bytes:
        stream, tokenizer = self.streams[index], self.state.context.tokenizer
        frames = b""
        for number, token in enumerate(ids):
            if stream.stopped or self.failed is not None:
                break
            self.ids[index].append(token)
            if not tokenizer.is_hidden(token):
                frames += self._written(stream.tokens([token], logprobs[number : number + 1]), index)
        return frames

    def ended(self, index: int = 0) -> bool:
        return self.streams[index].stopped

    def _finished(self, reason: str, usage: Usage, index: int, prompt_logprobs: Sequence[TokenLogprob | None]) -> bytes:
        stream = self.streams[index]
        by_stop_text = stream.stopped
        self.usages[index] = usage
        frames = self._written(stream.finish("length" if reason in ("length", "context") else "stop"), index)
        if not by_stop_text:
            shown = self._shown(json.loads(stream.whole))
            if reason not in ("length", "context"):
                _check_calls(shown.calls)
            answered = Answered(self.state.reading.reasons_first, *shown, tuple(self.ids[index]))
            self.state.context.replay.keep(answered)
        return frames

    def _written(self, events: Sequence[Event], index: int) -> bytes:
        if not self.asked.stream:
            return b""
        return b"".join(self._frames(event, index) for event in events)

    @property
    def prompt_tokens(self) -> int:
        return len(self.asked.parts[0].prompt.ids)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed anew. What one of several answers computed, the others hit."""
        return min(usage.cached_tokens + usage.disk_tokens for usage in self.usages)

    @property
    def completion_tokens(self) -> int:
        return sum(map(len, self.ids))

    def reasoning_tokens(self, index: int) -> int:
        """Tokens of an answer before its `</think>`."""
        if not self.state.reading.reasons_first:
            return 0
        ids, end = self.ids[index], self.state.context.tokenizer.token_id(END_THINK)
        return ids.index(end) if end in ids else len(ids)

    def _last(self) -> bytes:
        return b""

    @abstractmethod
    def _frames(self, event: Event, index: int) -> bytes:
        """An event of recipe's as it is sent."""

    @abstractmethod
    def _shown(self, answer: dict[str, Any]) -> Shown:
        """What the protocol's whole answer shows."""


def _check_calls(calls: Sequence[Call]) -> None:
    """Raises `Refused` for arguments that are no JSON object, as a model may write them where no grammar holds it."""
    for call in calls:
        try:
            is_object = isinstance(json.loads(call.arguments), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise Refused(500, f"the model called {call.name!r} with arguments that are no JSON object", "invalid_call")
