"""Messages as DeepSeek-V4 reads them: its chat encoding (encoding_dsv4) without thinking and without tools.

    system       content
    user         <｜User｜> content
    assistant    content EOS
    before an answer, after a user's message: <｜Assistant｜> </think>

All after BOS. `</think>` says that no reasoning comes. Markers are tokens of their own; their strings in a content are
ordinary characters, so that nobody can forge a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wavefold.chat.special_tokens import ASSISTANT, BOS, END_THINK, EOS, USER
from wavefold.chat.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
MESSAGE = '{"role": ROLE, "content": TEXT}'


class EncodedChat(NamedTuple):
    """`ids` of a chat, and for training `learned`: True for answers and the EOS after them, False for all others."""

    ids: list[int]
    learned: list[bool]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, object]]) -> EncodedChat:
    """Messages ({"role", "content"}) as ids; where a user's message is the last, they end where the answer begins.

    Raises ValueError for no messages, for other roles, for content that is not text, for keys that are not encoded here
    (tools and the like), and for a tokenizer without the markers.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f"messages = {messages!r} is not allowed; expected a list of {MESSAGE}")
    if not messages:
        raise ValueError("a chat of no messages is not allowed; expected one at least")
    parts: list[tuple[str, bool, bool]] = [(BOS, True, False)]
    """(text, True if it is a marker, True if it is learned)"""
    for number, message in enumerate(messages):
        role, content = _checked(message, number)
        answers = role == "assistant"
        if role == "user":
            parts.append((USER, True, False))
        if parts[-1][1:] == (False, answers):  # text after text is one text to the tokenizer
            content = parts.pop()[0] + content
        parts.append((content, False, answers))
        if answers:
            parts.append((EOS, True, True))
        following = _checked(messages[number + 1], number + 1)[0] if number + 1 < len(messages) else "assistant"
        if role == "user" and following == "assistant":
            parts += [(ASSISTANT, True, False), (END_THINK, True, False)]
    ids: list[int] = []
    learned: list[bool] = []
    for text, marker, is_learned in parts:
        ids += [tokenizer.token_id(text)] if marker else tokenizer.encode(text)
        learned += [is_learned] * (len(ids) - len(learned))
    return EncodedChat(ids, learned)


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, object]]) -> list[int]:
    """Returns the ids of a chat up to where its next answer begins.

    Raises ValueError where `encode_chat` does, and for a last message that is not a user's.
    """
    ids = encode_chat(tokenizer, messages).ids
    if (role := messages[-1]["role"]) != "user":
        raise ValueError(
            f"message {len(messages)}: role = {role!r} is not allowed at the end of a chat that is to be answered; "
            "expected 'user'"
        )
    return ids


def turn_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The markers that end an answer beside EOS, since the next turn begins. Raises ValueError without them."""
    return tokenizer.token_id(USER), tokenizer.token_id(ASSISTANT)


def _checked(message: Mapping[str, object], number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"message {number + 1}: {message!r} is not allowed; expected {MESSAGE}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"message {number + 1}: role = {role!r} is not allowed; expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"message {number + 1}: content = {content!r} is not allowed; expected text")
    for key, value in message.items():
        if key not in ("role", "content") and value is not None:
            raise ValueError(f"message {number + 1}: {key!r} is not encoded here; expected role and content alone")
    return role, content
