"""Chats of a file: read or refused with the line's number, and learned where the assistant speaks."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from wavefold.chat import byte_tokenizer
from wavefold.chat.encoding import encode_chat
from wavefold.data import chat_data
from wavefold.data.batches import IGNORED, Batches, pack
from wavefold.data.chat_data import chat_text, chat_tokens, checked_chat, read_chats

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
S = {"role": "system", "content": "Be brief."}
ENCODE = functools.partial(encode_chat, byte_tokenizer())


def line(*messages: object, **others: object) -> str:
    return json.dumps({"messages": messages, **others})


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_chats_come_back_with_their_lines(tmp_path):
    path = write(
        tmp_path, line(U, A) + "\n\n  \r\n" + line(S, U, U, A, U, A, id=3) + "\n" + line(U, A | {"name": None})
    )
    chats = read_chats(path)
    assert chats == [("chats.jsonl:1", (U, A)), ("chats.jsonl:4", (S, U, U, A, U, A)), ("chats.jsonl:5", (U, A))]
    assert chat_text(chats[0][1]) == "hi\n\nhello"


def test_a_file_of_nothing_has_no_chats(tmp_path):
    assert read_chats(write(tmp_path, "")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is no chat; expected"),
        ('{"conversation": []}', "is no chat; expected"),
        ('{"messages": "hi"}', "messages = 'hi' are not allowed; expected a list of 1 to 1000"),
        (line(), "0 messages are not allowed"),
        (line(*[U, A] * 501), "1002 messages are not allowed; expected a list of 1 to 1000"),
        (line("hi"), "message 1: 'hi' is not allowed; expected an object with role and content"),
        (line(U, {"content": "x"}), "message 2: role = None is not allowed; expected one of system, user, assistant"),
        (line(U, {"role": "tool", "content": "x"}), "message 2: role = 'tool' is not allowed"),
        (line(U, {"role": ["user"], "content": "x"}), "message 2: role = .* is not allowed"),
        (line(U, {"role": "assistant"}), "message 2: content = None is not allowed; expected text"),
        (line(U, {"role": "assistant", "content": ""}), "message 2: content = '' is not allowed; expected text"),
        (line(U, {"role": "assistant", "content": [1]}), "message 2: content = .1. is not allowed; expected text"),
        (line(U, A | {"content": float("nan")}), "message 2: content = nan is not allowed; expected text"),
        (line(U, A | {"tool_calls": []}), "message 2: key 'tool_calls' is not allowed"),
        (line(U, A | {"reasoning_content": "so"}), "message 2: key 'reasoning_content' is not allowed"),
        (line(U, A | {"content": "\ud800"}), "message 2: content cannot be written as UTF-8"),
        (line(U, S, A), "message 2: role = 'system' is not allowed here; expected it first"),
        (line(A, U, A), "message 1: role = 'assistant' is not allowed here; expected a user's message before it"),
        (line(U, A, A), "message 3: role = 'assistant' is not allowed here"),
        (line(U, A, U), "role = 'user' of the last message is not allowed; expected 'assistant'"),
        (line(S), "role = 'system' of the last message is not allowed"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_line(tmp_path, text, message):
    data = text if isinstance(text, bytes) else text.encode()
    path = write(tmp_path, line(U, A).encode() + b"\n\n" + data + b"\n" + line(U, A).encode())
    with pytest.raises(ValueError, match=rf"chats\.jsonl:3: {message}"):
        read_chats(path)


def test_a_line_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chat_data, "MAX_LINE_BYTES", 200)
    short = line(U, A)
    path = write(tmp_path, short + "\n" + short[:-1] + " " * 200 + "}\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl:2: has more than 200 bytes"):
        read_chats(path)
    exact = short[:-1] + " " * (199 - len(short)) + "}\n"
    assert len(exact) == 200 and len(read_chats(write(tmp_path, exact))) == 1


def test_errors_show_little_of_a_long_value():
    with pytest.raises(ValueError, match="role = 'xxx") as error:
        checked_chat([{"role": "x" * 10_000, "content": "y"}], "here")
    assert len(str(error.value)) < 200


def test_only_answers_are_learned():
    tokenizer = byte_tokenizer()
    (tokens,) = chat_tokens([(S, U, A, U, A)], ENCODE)
    packed = pack([tokens])
    learned = [t for t in packed.targets.tolist() if t != IGNORED]
    answer = [*tokenizer.encode("hello"), tokenizer.eos_id]
    assert learned == answer * 2
    assert tokens.ids[0] == tokenizer.bos_id and packed.num_targets == 12


def test_pieces_of_masked_documents_are_kept_where_something_is_learned():
    """A piece of a question alone is left out; each answer is learned once an epoch."""
    tokenizer = byte_tokenizer()
    long = {"role": "user", "content": "x" * 1000}
    chats = chat_tokens([(long, A | {"content": f"{n:05d}"}) for n in range(20)], ENCODE)
    batches = Batches(chats, 0, lambda step: (50, 50))
    seen: list[int] = []
    for step in itertools.count():
        if len(seen) >= 20 * 6:
            break
        packed = batches(step)
        assert packed.num_targets == 6 * len(packed.lengths)
        seen += [t for t in packed.targets.tolist() if t != IGNORED]
    answers = {tuple(seen[i : i + 6]) for i in range(0, 20 * 6, 6)}
    assert answers == {(*tokenizer.encode(f"{n:05d}"), tokenizer.eos_id) for n in range(20)}


def test_ids_and_masks_are_arrays():
    (tokens,) = chat_tokens([(U, A)], ENCODE)
    assert tokens.ids.dtype == np.int32 and tokens.learned is not None and tokens.learned.dtype == bool
