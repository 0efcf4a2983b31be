"""Chats to train on: a file with one chat a line, and their tokens. Only the assistant's tokens are learned.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}

Other keys beside "messages" are ignored. A system message may begin. An answer follows a user's message, and the last
message is an answer. Chats with tools or reasoning are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wavefold.data.batches import Tokens

MAX_LINE_BYTES = 1 << 24
MAX_MESSAGES = 1000
ROLES = ("system", "user", "assistant")

Chat = tuple[Mapping[str, str], ...]
"""Messages in order. A message has "role" and "content"."""
Encode = Callable[[Chat], tuple[Sequence[int], Sequence[bool]]]
"""Messages -> (ids, True for ids that are learned), as `chat.encoding.encode_chat` does with a tokenizer."""


def read_chats(path: Path) -> list[tuple[str, Chat]]:
    """Returns (name, chat) pairs of a .jsonl file. A name is "FILE:LINE". Blank lines are skipped.

    Raises ValueError, naming the line, for a chat of another form or beyond the limits.
    """
    chats = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{where}: has more than {MAX_LINE_BYTES} bytes; expected one chat a line")
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: is not JSON ({error}); expected one chat a line") from None
            if not isinstance(value, dict) or "messages" not in value:
                raise ValueError(f'{where}: is no chat; expected {{"messages": [...]}}')
            chats.append((f"{path.name}:{number}", checked_chat(value["messages"], where)))
    return chats


def checked_chat(messages: object, where: str) -> Chat:
    """Returns `messages` unchanged if they can be learned. Raises ValueError, naming `where`, if not."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        found = f"{len(messages)} messages" if isinstance(messages, list) else f"messages = {_shown(messages)}"
        raise ValueError(f"{where}: {found} are not allowed; expected a list of 1 to {MAX_MESSAGES}")
    before, chat = None, []
    for number, message in enumerate(messages, 1):
        place = f"{where}: message {number}"
        if not isinstance(message, dict):
            raise ValueError(f"{place}: {_shown(message)} is not allowed; expected an object with role and content")
        for key, value in message.items():
            if key not in ("role", "content") and value is not None:
                raise ValueError(f"{place}: key {_shown(key)} is not allowed; expected role and content alone")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"{place}: role = {_shown(role)} is not allowed; expected one of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content:
            raise ValueError(f"{place}: content = {_shown(content)} is not allowed; expected text")
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{place}: content cannot be written as UTF-8 ({error})") from None
        if role == "system" and before is not None:
            raise ValueError(f"{place}: role = 'system' is not allowed here; expected it first")
        if role == "assistant" and before != "user":
            raise ValueError(f"{place}: role = 'assistant' is not allowed here; expected a user's message before it")
        chat.append({"role": role, "content": content})
        before = role
    if before != "assistant":
        raise ValueError(f"{where}: role = {_shown(before)} of the last message is not allowed; expected 'assistant'")
    return tuple(chat)


def chat_text(chat: Chat) -> str:
    """Returns the contents of a chat without roles, for training a tokenizer."""
    return "\n\n".join(message["content"] for message in chat)


def chat_tokens(chats: Sequence[Chat], encode: Encode) -> list[Tokens]:
    """Returns each chat as a document in which only the answers are learned."""
    encoded = map(encode, chats)
    return [Tokens(np.asarray(ids, np.int32), np.asarray(learned, bool)) for ids, learned in encoded]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
