"""`/v1/completions`: texts, or token ids as evaluations send them, are continued; `suffix` leaves a hole to fill.

prompt                BOS prompt                               its last token may become another one (chat/healing.py)
prompt, suffix        BOS <｜fim▁begin｜> prompt <｜fim▁hole｜> suffix <｜fim▁end｜>
echo, logprobs        log probabilities of the prompt too. With `max_tokens` of 1 exactly one token follows: EOS
                      cannot come, since evaluations count on a token that they leave out
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from wavefold.chat import Prompt, StreamDecoder, heal
from wavefold.chat.fim import FIM_MARKERS, hole_ids
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.stops import StopTexts
from wavefold.engine.usage import Usage
from wavefold.server.protocol import sse
from wavefold.server.protocol.bodies import checked, parsed
from wavefold.server.protocol.bodies_completions import MOST_PARTS, CompletionBody, prompts_of
from wavefold.server.protocol.chats import samplings
from wavefold.server.protocol.choosing import biases_of, sampling_of
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused, openai_error, too_long
from wavefold.server.protocol.protocol import Asked, Part, Protocol, Writer, wants_progress
from wavefold.server.protocol.token_logprobs import Entries

MAX_TOKENS = 16
"""OpenAI's default, cut to the rest of the window."""


class CompletionState(NamedTuple):
    body: CompletionBody
    context: Context
    echoes: tuple[str, ...]
    """What the text of each part begins with."""


class Completions(Protocol):
    """OpenAI's Completions: a text is continued, or a hole in it is filled."""

    path = "/v1/completions"
    model_body = CompletionBody

    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        return _asked(checked(CompletionBody, parsed(body)), headers, context)

    def writer(self, asked: Asked, request_id: str) -> Texts:
        return Texts(asked, f"cmpl-{request_id}")


def _asked(body: CompletionBody, headers: Mapping[str, str], context: Context) -> Asked:
    context.check_name(body.model)
    _check(body)
    prompts, count = prompts_of(body.prompt), body.n or 1
    if len(prompts) * count > MOST_PARTS:
        raise Refused(400, f"{len(prompts)} prompts x n = {count}; expected {MOST_PARTS} answers at most", INVALID, "n")
    longest = MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    parts, echoes = [], []
    fields = _fields(body, longest, context)
    wanted = samplings(fields, count, context)
    for text in prompts:
        prompt = _prompt(text, body, context)
        left = context.window - prompt.num_tokens
        if left < (1 if body.max_tokens is None else longest):
            asked = body.max_tokens and longest
            raise too_long(context.window, prompt.num_tokens, asked or 0, "prompt", "max_tokens")
        parts += [Part(prompt, replace(sampling, max_tokens=min(longest, left))) for sampling in wanted]
        echo = text if isinstance(text, str) else context.tokenizer.decode(prompt.ids, show_special=False)
        echoes += [echo if body.echo else ""] * count
    state = CompletionState(body, context, tuple(echoes))
    return Asked(body.model, tuple(parts), bool(body.stream), wants_progress(headers), state)


def _check(body: CompletionBody) -> None:
    problems = {
        "max_tokens": "max_tokens = 0 without echo has no answer" if body.max_tokens == 0 and not body.echo else "",
        "echo": "echo beside suffix is not supported here" if body.echo and body.suffix is not None else "",
        "stream": "echo with logprobs is not streamed: log probabilities of a prompt are known at its end"
        if body.stream and body.echo and body.logprobs is not None else "",
        "stream_options": "stream_options without stream" if body.stream_options and not body.stream else "",
    }  # fmt: skip
    for place, said in problems.items():
        if said:
            raise Refused(400, said, INVALID, place)


def _fields(body: CompletionBody, longest: int, context: Context) -> dict[str, Any]:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    bias = biases_of(body.logit_bias)
    scored = bool(body.echo) and body.logprobs is not None
    if scored and longest == 1:
        bias |= {token: -100.0 for token in context.eos_ids}
    return {
        **sampling_of(body), "max_tokens": longest, "stop": stop, "logit_bias": bias, "logprobs": body.logprobs,
        "prompt_logprobs": body.logprobs if scored else None,
    }  # fmt: skip


def _prompt(text: str | list[int], body: CompletionBody, context: Context) -> Prompt:
    tokenizer = context.tokenizer
    if isinstance(text, list):
        if body.suffix is not None:
            raise Refused(400, "suffix beside token ids; expected a prompt that is a text", INVALID, "suffix")
        if max(text) >= context.vocab_size:
            raise Refused(400, f"token id {max(text)}; expected 0 to {context.vocab_size - 1}", INVALID, "prompt")
        return Prompt(text)
    if body.suffix is not None:
        if lacking := tokenizer.lacking(FIM_MARKERS):
            raise Refused(400, f"suffix needs the token {lacking!r}, which this model lacks", INVALID, "suffix")
        return Prompt(hole_ids(tokenizer, text, body.suffix))
    prompt = Prompt(tokenizer.encode(text, bos=True))
    return prompt if body.echo or body.logprobs is not None else heal(tokenizer, prompt.ids)


class _Text:
    """The text of one part as it comes."""

    def __init__(self, part: Part, state: CompletionState, echo: str):
        self.decoder = StreamDecoder(state.context.tokenizer, len(part.prompt.taken), show_special=False)
        self.stops = StopTexts(tuple(part.sampling.stop))
        self.pieces: list[str] = []
        self.num_characters = self.num_scored = self.num_told = 0
        self.ids: list[int] = []
        self.reason = ""
        self.is_begun = False
        """A chunk of it has been written."""
        self.usage = Usage(part.prompt.num_tokens)
        self.entries = Entries(state.context.tokenizer, len(echo)) if part.sampling.logprobs is not None else None
        self.add(echo)

    def add(self, piece: str) -> None:
        """Adds characters that are shown."""
        self.pieces.append(piece)
        self.num_characters += len(piece)

    def new_logprobs(self) -> dict[str, Any] | None:
        """Returns the log probabilities of tokens that are shown and had not been; None: there are none.

        Tokens of a text that may become a stop text wait with it.
        """
        if self.entries is None:
            return None
        is_all = self.reason != "" and not self.stops.found
        value = self.entries.value(self.num_scored, None if is_all else self.num_characters)
        self.num_scored += len(value["tokens"])
        return value if value["tokens"] else None


class Texts(Writer):
    """Chunks of texts, or all of them at the end."""

    def __init__(self, asked: Asked, answer_id: str):
        super().__init__(asked)
        self.state: CompletionState = asked.state
        self.answer_id, self.created = answer_id, int(time.time())
        pairs = zip(asked.parts, self.state.echoes, strict=True)
        self.texts = [_Text(part, self.state, echo) for part, echo in pairs]
        self.only_echo = self.state.body.max_tokens == 0
        self._frames = [sse.Frames(partial(self._chunk_value, index)) for index in range(len(self.texts))]

    def begin(self, prompt_tokens: int, cached_tokens: int, index: int = 0) -> bytes:
        echo = self.state.echoes[index]
        return self._chunk(index, echo) if echo else b""

    def tokens(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob], index: int = 0) -> bytes:
        text = self.texts[index]
        if text.stops.found or self.only_echo or self.failed is not None:
            return b""
        piece = ""
        for number, token in enumerate(ids):
            text.ids.append(token)
            piece += text.stops.push(text.decoder.push(token))
            if text.entries is not None:
                text.entries.add(token, logprobs[number])
            if self.ended(index):
                break
        text.add(piece)
        return self._chunk(index, piece) if piece else b""

    def ended(self, index: int = 0) -> bool:
        return self.texts[index].stops.found

    def _finished(self, reason: str, usage: Usage, index: int, prompt_logprobs: Sequence[TokenLogprob | None]) -> bytes:
        text = self.texts[index]
        piece = ""
        if not text.stops.found and not self.only_echo:
            piece = text.stops.push(text.decoder.finish())
            piece += text.stops.finish()
        text.add(piece)
        is_cut = reason in ("length", "context") and not text.stops.found
        text.reason, text.usage = "length" if is_cut else "stop", usage
        if text.entries is not None and prompt_logprobs:
            text.entries.put_prompt(self.asked.parts[index].prompt.ids, prompt_logprobs)
        return self._chunk(index, piece, text.reason)

    def _last(self) -> bytes:
        if not self.asked.stream:
            return b""
        options = self.state.body.stream_options
        if options is None or not options.include_usage:
            return sse.DONE
        return sse.frame(sse.dumped({**self._head(), "choices": [], "usage": self._usage()})) + sse.DONE

    def _chunk(self, index: int, piece: str, reason: str | None = None) -> bytes:
        """A frame with a piece of text, and with the log probabilities of its tokens."""
        if not self.asked.stream:
            return b""
        logprobs = self.texts[index].new_logprobs()
        if reason is None and logprobs is None and not self.state.body.return_token_ids:
            return self._frames[index].of(piece)
        ids = self._new_ids(index) if self.state.body.return_token_ids else {}
        return sse.frame(sse.dumped(self._chunk_value(index, piece, logprobs, reason, ids)))

    def _chunk_value(
        self, index: int, piece: str, logprobs: dict[str, Any] | None = None, reason: str | None = None,
        ids: Mapping[str, list[int]] = {},
    ) -> dict[str, Any]:  # fmt: skip
        choice = {"text": piece, "index": index, "logprobs": logprobs, "finish_reason": reason, **ids}
        return {**self._head(), "choices": [choice]}

    def _new_ids(self, index: int) -> dict[str, list[int]]:
        """Ids of the tokens that came since the last frame; with the first, those of the prompt."""
        text = self.texts[index]
        ids = {"token_ids": text.ids[text.num_told :]}
        if not text.is_begun:
            ids["prompt_token_ids"] = list(self.asked.parts[index].prompt.ids)
        text.num_told, text.is_begun = len(text.ids), True
        return ids

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.answer_id, "object": "text_completion", "created": self.created, "model": self.asked.model,
        }  # fmt: skip

    def _whole(self) -> bytes:
        choices = []
        for index, text in enumerate(self.texts):
            whole = "".join(text.pieces)
            logprobs = None
            if text.entries is not None:
                logprobs = text.entries.value(0, len(whole) if text.stops.found else None)
            choice = {"text": whole, "index": index, "logprobs": logprobs, "finish_reason": text.reason}
            if self.state.body.return_token_ids:
                choice |= {"prompt_token_ids": self.asked.parts[index].prompt.ids, "token_ids": text.ids}
            choices.append(choice)
        return sse.dumped({**self._head(), "choices": choices, "usage": self._usage()}).encode()

    def _usage(self) -> dict[str, Any]:
        answers = self.state.body.n or 1
        prompt = sum(text.usage.prompt_tokens for text in self.texts[::answers])
        cached = [text.usage.cached_tokens + text.usage.disk_tokens for text in self.texts]
        of_prompts = [min(cached[first : first + answers]) for first in range(0, len(cached), answers)]
        completion = sum(len(text.ids) for text in self.texts)
        return {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(of_prompts)},
        }  # fmt: skip

    def _failure(self, refused: Refused) -> bytes:
        return sse.frame(sse.dumped({"error": openai_error(refused)}))
