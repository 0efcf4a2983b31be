"""Policies for chats longer than a sequence: refuse, shorten by whole turns, or drop. They are never cut into pieces.

    refuse     an error that counts them
    truncate   BOS [system] turn 1 ... turn n  -->  BOS [system] turn k ... turn n, the first k that fits
    drop       leaves them out

A piece from the middle of a chat would begin inside an answer, without BOS, role and question. A turn is one or more
user messages and their answer. A last turn that does not fit alone is left out. The same rule holds for documents of
token shards with `learned` marks, but they have no turns to truncate by.

If a run has several sequence lengths, the shortest decides, so a chat is learned whole in every stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from wavefold.data.batches import Documents, Tokens
from wavefold.data.chat_data import Chat, Encode, chat_tokens
from wavefold.data.corpus import Document
from wavefold.data.shards import Chosen
from wavefold.system import Notice

LongChats = Literal["refuse", "truncate", "drop"]
LONG_CHATS: tuple[str, ...] = get_args(LongChats)


def fit_chats(
    parts: Sequence[Sequence[Document]],
    encode: Encode,
    seq_len: int,
    policy: LongChats,
    source: str,
    tell: bool = True,
) -> list[list[tuple[str, Tokens]]]:
    """Returns (name, tokens) of the chats of each part (training, held out), of at most seq_len + 1 tokens.

    `tell`: warn with a Notice of the chats that were shortened or dropped. Raises ValueError if a chat is longer and
    `policy` is "refuse", or if a part keeps no chat.
    """
    whole = [
        list(zip((chat.name for chat in part), chat_tokens([chat.messages for chat in part], encode), strict=True))
        for part in parts
    ]
    lengths = np.array([len(tokens) for part in whole for _, tokens in part], np.int64)
    long = lengths > seq_len + 1
    if not long.any():
        return whole
    names = [name for part in whole for name, _ in part]
    count = _count(lengths, long, "chats", source, seq_len, f", {names[int(lengths.argmax())]},")
    if policy == "refuse":
        raise ValueError(f"{count}; {_ways_out('truncate', 'drop')}")
    shortened = 0
    kept: list[list[tuple[str, Tokens]]] = []
    for chats, documents in zip(parts, whole, strict=True):
        fitting: list[tuple[str, Tokens]] = []
        for chat, (name, tokens) in zip(chats, documents, strict=True):
            if len(tokens) <= seq_len + 1:
                fitting.append((name, tokens))
            elif policy == "truncate" and (shorter := last_turns(chat.messages, encode, seq_len)) is not None:
                fitting.append((name, shorter))
                shortened += 1
        kept.append(fitting)
    _require_documents(kept, count)
    if tell:
        left_out = int(long.sum()) - shortened
        done = f"{shortened} lost their earliest turns, {left_out} are left out" if shortened else "they are left out"
        warnings.warn(f"{count}; {done}", Notice, stacklevel=2)
    return kept


def fit_documents(
    parts: Sequence[Documents], seq_len: int, policy: LongChats, source: str, tell: bool = True
) -> list[Documents]:
    """Returns the documents of each part without masked ones of more than seq_len + 1 tokens.

    Unmasked documents stay, since they are cut as text is. Raises ValueError if a masked document is longer and
    `policy` is not "drop", or if a part keeps no document.
    """
    masked = np.concatenate([part.masked for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    long = masked & (lengths > seq_len + 1)
    if not long.any():
        return list(parts)
    count = _count(lengths, long, "documents", source, seq_len)
    if policy != "drop":
        reason = " (token shards have no turns to truncate by)" if policy == "truncate" else ""
        raise ValueError(f"{count} and not learned whole; {_ways_out('drop')}{reason}")
    kept: list[Documents] = [
        Chosen(part, np.flatnonzero(~(part.masked & (part.lengths > seq_len + 1)))) for part in parts
    ]
    _require_documents(kept, count)
    if tell:
        warnings.warn(f"{count} and not learned whole; they are left out", Notice, stacklevel=2)
    return kept


def last_turns(chat: Chat, encode: Encode, seq_len: int) -> Tokens | None:
    """Returns the chat with as many of its last turns as fit, or None if the last turn does not fit."""
    system = chat[:1] if chat[0]["role"] == "system" else ()
    begins = [number for number, message in enumerate(chat)
              if message["role"] == "user" and (number == 0 or chat[number - 1]["role"] != "user")]  # fmt: skip
    low, high = 0, len(begins)  # bisect for the first turn that can stay: fewer turns are fewer tokens
    fitting: Tokens | None = None
    while low < high:
        middle = (low + high) // 2
        (document,) = chat_tokens([(*system, *chat[begins[middle] :])], encode)
        if len(document) <= seq_len + 1:
            fitting, high = document, middle
        else:
            low = middle + 1
    return fitting


def _require_documents(kept: Sequence[Sequence[object]], count: str) -> None:
    for part, purpose in zip(kept, ("to learn from", "to hold out"), strict=False):
        if not len(part):
            raise ValueError(f"{count}, and none is left {purpose}; {_ways_out()}")


def _count(lengths: np.ndarray, long: np.ndarray, noun: str, source: str, seq_len: int, longest: str = "") -> str:
    return (
        f"{source}: {int(long.sum())} of {len(long)} {noun} are longer than a sequence (the longest{longest} has "
        f"{int(lengths[long].max())} tokens; seq_len = {seq_len}, the shortest of length_stages, has room for "
        f"{seq_len + 1})"
    )


def _ways_out(*policies: str) -> str:
    meanings = {"truncate": "drops their earliest turns", "drop": "leaves them out"}
    flags = [f"--long-chats {policy} {meanings[policy]}" for policy in policies]
    return ", or ".join([*flags, "set longer length_stages"])
