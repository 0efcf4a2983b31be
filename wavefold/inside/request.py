"""A request to look inside, as it comes from outside, checked: which tokens, and which of them.

    {"ids": [0, 5, 7], "position": 2}
    {"text": "def main():", "position": 3}                         after BOS, as a completion's prompt
    {"text": "a", "suffix": "c", "answer": "b", "position": 5}     a hole between two texts, and what fills it
    {"messages": [{"role": "user", "content": "Hi"}], "answer": "Hello", "position": 9}

`position` counts from 0, BOS included. Without it, the last token is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from wavefold.chat import Tokenizer
from wavefold.chat.encoding import chat_ids
from wavefold.chat.fim import FIM_MARKERS, hole_ids
from wavefold.config import ModelConfig
from wavefold.engine.arguments import TEXT, as_whole, refused, shown
from wavefold.engine.prompts import token_ids

MOST_TOKENS = 65_536
"""Tokens of a request, unless the caller says otherwise: the answer names each of them."""
MOST_CHARACTERS = 16
"""Characters of a text for each token that is allowed, and for BOS: longer texts are refused before they are read."""
SOURCES = ("ids", "text", "messages")
KEYS = (*SOURCES, "suffix", "answer", "position")


class Asked(NamedTuple):
    ids: list[int]
    position: int


def asked(
    request: Mapping[str, object], tokenizer: Tokenizer | None, config: ModelConfig, most_tokens: int = MOST_TOKENS
) -> Asked:  # fmt: skip
    """Returns the tokens and the position of a request. Raises ValueError that names what is wrong with it."""
    if not isinstance(request, Mapping):
        raise refused("request", request, "an object with ids, text or messages")
    for key in request:
        if key not in KEYS:
            raise ValueError(f"{shown(key)} is not known; expected some of {', '.join(KEYS)}")
    sources = [source for source in SOURCES if request.get(source) is not None]
    if len(sources) != 1:
        raise ValueError(f"{' and '.join(sources) or 'no tokens'}: expected one of {', '.join(SOURCES)}")
    most = min(most_tokens, config.max_position_embeddings)
    ids = _ids(sources[0], request, tokenizer, most)
    if not ids:
        raise ValueError(f"{sources[0]}: no token; expected one at least")
    if len(ids) > most:
        raise ValueError(f"{sources[0]}: {len(ids):,} tokens are not allowed; expected at most {most:,}")
    largest = max(ids)
    if largest >= config.vocab_size:
        raise ValueError(f"ids: token {largest} is not allowed; expected 0 to {config.vocab_size - 1}")
    return Asked(ids, _position(request.get("position"), len(ids)))


def _ids(source: str, request: Mapping[str, object], tokenizer: Tokenizer | None, most: int) -> list[int]:
    suffix, answer = request.get("suffix"), request.get("answer")
    if suffix is not None and source != "text":
        raise ValueError(f"suffix beside {source} is not allowed; expected text with it")
    if answer is not None and source != "messages" and suffix is None:
        raise ValueError(f"answer beside {source} is not allowed; expected messages, or text and suffix, with it")
    if source == "ids":
        return token_ids("ids", request["ids"])
    if tokenizer is None:
        raise ValueError("the model has no tokenizer that can be used; give ids in place of a text")
    if source == "text":
        text = _short("text", request["text"], most)
        ids = tokenizer.encode(text, bos=True) if suffix is None else _hole(text, suffix, tokenizer, most)
    else:
        ids = _chat(request["messages"], tokenizer, most)
    return ids if answer is None else ids + tokenizer.encode(_short("answer", answer, most), allow_special=True)


def _hole(text: str, suffix: object, tokenizer: Tokenizer, most: int) -> list[int]:
    """A prompt to fill the hole between two texts, as models are trained on it (`data/fim.py`)."""
    if lacking := tokenizer.lacking(FIM_MARKERS):
        raise ValueError(f"suffix needs the token {lacking!r}, which this model lacks; leave suffix out")
    return hole_ids(tokenizer, text, _short("suffix", suffix, most))


def _chat(messages: object, tokenizer: Tokenizer, most: int) -> list[int]:
    if isinstance(messages, list | tuple):
        for number, message in enumerate(messages, 1):
            if isinstance(message, Mapping) and isinstance(content := message.get("content"), str):
                _short(f"message {number}: content", content, most)
    return chat_ids(tokenizer, messages)  # type: ignore[arg-type]


def _short(name: str, value: object, most: int) -> str:
    text: str = TEXT.used(name, value)
    if len(text) > (most + 1) * MOST_CHARACTERS:
        raise ValueError(
            f"{name}: {len(text):,} characters are not allowed; expected at most {(most + 1) * MOST_CHARACTERS:,}"
        )
    return text


def _position(value: object, count: int) -> int:
    if value is None:
        return count - 1
    try:
        position = as_whole(value)
    except TypeError:
        position = -1
    if not 0 <= position < count:
        raise refused("position", value, f"a whole number from 0 to {count - 1}, a token of the text")
    return position
