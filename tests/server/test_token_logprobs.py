"""The four lists of `/v1/completions` beside the text that they are of."""

from __future__ import annotations

import random

import pytest

from tests.server.feeding import TOKENIZER
from wavefold.chat import StreamDecoder
from wavefold.engine.logprobs import TokenLogprob
from wavefold.server.protocol.token_logprobs import Entries

PIECES = [
    b"a",
    b" x",
    "é".encode(),
    "日".encode(),
    "🙂".encode(),
    b"\xc3",
    b"\xa9",
    b"\xe6\x97",
    b"\xf0\x9f\x99",
    b"\xff",
]
KNOWN = TokenLogprob(TOKENIZER.eos_id, -1.0, 1, ())


def characters(data: bytes) -> list[int]:
    """The character of each byte, found one character after another: as it decodes, or as one U+FFFD."""
    found: list[int] = []
    count = 0
    while len(found) < len(data):
        rest = data[len(found) :]
        try:
            size = len(rest.decode()[0].encode())
        except UnicodeDecodeError as error:
            size = len(rest[: error.start].decode()[0].encode()) if error.start else error.end
        found += [count] * size
        count += 1
    return found


def ids_of(data: bytes) -> list[int]:
    """A token for each byte: whatever is learned joins some of them."""
    single = {TOKENIZER.token_bytes(token): token for token in reversed(range(TOKENIZER.vocab_size))}
    return [single[data[n : n + 1]] for n in range(len(data))]


@pytest.mark.parametrize("seed", range(40))
def test_a_token_begins_where_its_offset_says(seed: int) -> None:
    """With bytes that are no UTF-8, and hidden tokens between them."""
    drawn = random.Random(seed)
    data = b"".join(drawn.choices(PIECES, k=12))
    ids, entries, decoder = ids_of(data), Entries(TOKENIZER, 0), StreamDecoder(TOKENIZER, show_special=False)
    text = ""
    for token in ids:
        if drawn.random() < 0.2:
            entries.add(TOKENIZER.eos_id, KNOWN)
        entries.add(token, KNOWN)
        text += decoder.push(token)
    text += decoder.finish()
    value = entries.value(0)
    shown = zip(value["tokens"], value["text_offset"], strict=True)
    offsets = [offset for token, offset in shown if token != TOKENIZER.decode([TOKENIZER.eos_id])]
    assert offsets == characters(data) and text == data.decode(errors="replace")
    assert len(entries.value(0, 3)["tokens"]) == sum(offset < 3 for offset in value["text_offset"])


def test_the_offsets_of_an_echoed_prompt_begin_at_its_start() -> None:
    entries = Entries(TOKENIZER, 2)
    for token in ids_of(b"\xe6b"):
        entries.add(token, KNOWN)
    entries.put_prompt(ids_of("é".encode()) + ids_of(b"c"), [None, KNOWN, KNOWN])
    assert entries.value(0)["text_offset"] == [0, 0, 1, 2, 3]
