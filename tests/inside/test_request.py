"""Requests to look inside: what they may hold, and an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.small import SMALL_WITH_TEXT
from wavefold import LLM
from wavefold.chat import byte_tokenizer
from wavefold.chat.encoding import chat_ids
from wavefold.config import LayerSpec
from wavefold.inside import inside_answer, tokens_of
from wavefold.inside.answer import pieces, rounded
from wavefold.inside.request import asked

TOKENIZER = byte_tokenizer()
MESSAGES = [{"role": "user", "content": "Hi"}]


def test_ways_to_say_which_tokens() -> None:
    assert asked({"ids": [0, 5, 7], "position": 1}, None, SMALL_WITH_TEXT) == ([0, 5, 7], 1)
    text = asked({"text": "ab"}, TOKENIZER, SMALL_WITH_TEXT)
    assert text == (TOKENIZER.encode("ab", bos=True), 2)
    chat = asked({"messages": MESSAGES, "answer": "Yes", "position": 4}, TOKENIZER, SMALL_WITH_TEXT)
    assert chat == (chat_ids(TOKENIZER, MESSAGES) + TOKENIZER.encode("Yes"), 4)
    assert asked({"messages": MESSAGES}, TOKENIZER, SMALL_WITH_TEXT).ids == chat_ids(TOKENIZER, MESSAGES)
    hole = asked({"text": "a", "suffix": "c", "answer": "b"}, TOKENIZER, SMALL_WITH_TEXT).ids
    markers = [TOKENIZER.token_id(f"<｜fim▁{name}｜>") for name in ("begin", "hole", "end")]
    begin, middle, end = markers
    a, b, c = (TOKENIZER.encode(letter) for letter in "abc")
    assert hole == [TOKENIZER.bos_id, begin, *a, middle, *c, end, *b]
    thinking = asked({"messages": MESSAGES, "answer": "so</think>Yes"}, TOKENIZER, SMALL_WITH_TEXT).ids
    assert thinking[-4] == TOKENIZER.token_id("</think>")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ([1, 2], "request = "),
        ({}, "no tokens: expected one of ids, text, messages"),
        ({"position": 1}, "no tokens"),
        ({"ids": [1], "text": "a"}, "ids and text: expected one of"),
        ({"ids": []}, "ids: no token"),
        ({"ids": [1, -1]}, "ids = "),
        ({"ids": [1, 2.5]}, "ids = "),
        ({"ids": [True]}, "ids = "),
        ({"ids": "12"}, "ids = '12'"),
        ({"ids": [1, 300]}, "token 300 is not allowed; expected 0 to 299"),
        ({"ids": [1] * 51}, "51 tokens are not allowed; expected at most 50"),
        ({"ids": [1], "position": 1}, "position = 1 is not allowed; expected a whole number from 0 to 0"),
        ({"ids": [1], "position": -1}, "position = -1"),
        ({"ids": [1], "position": "0"}, "position = '0'"),
        ({"ids": [1], "position": True}, "position = True"),
        ({"ids": [1], "position": 0.0}, "position = 0.0"),
        ({"ids": [1], "answer": "x"}, "answer beside ids"),
        ({"text": "a", "answer": "x"}, "answer beside text"),
        ({"text": 5}, "text = 5"),
        ({"text": "a", "suffix": 5}, "suffix = 5"),
        ({"text": "a", "suffix": "x" * 2000}, "suffix: 2,000 characters are not allowed"),
        ({"messages": MESSAGES, "suffix": "x"}, "suffix beside messages"),
        ({"text": "x" * 2000}, "text: 2,000 characters are not allowed"),
        ({"text": "\ud800"}, "surrogates not allowed"),
        ({"messages": "Hi"}, "messages = 'Hi'"),
        ({"messages": []}, "a chat of no messages"),
        ({"messages": [{"role": "user"}]}, "content = None"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "x"}]}, "'assistant' is not allowed at the end"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "message 1: content: 2,000 characters"),
        ({"messages": MESSAGES, "answer": 5}, "answer = 5"),
        (
            {"ids": [1], "layers": 3},
            "'layers' is not known; expected some of ids, text, messages, suffix, answer, position",
        ),
    ],
)
def test_what_is_wrong_is_named(request_: object, named: str) -> None:
    with pytest.raises(ValueError) as raised:
        asked(request_, TOKENIZER, SMALL_WITH_TEXT, most_tokens=50)  # type: ignore[arg-type]
    assert named in str(raised.value)


def test_without_a_tokenizer_ids_are_asked_for() -> None:
    with pytest.raises(ValueError, match="give ids in place of a text"):
        asked({"text": "a"}, None, SMALL_WITH_TEXT)


def test_the_window_of_the_model_is_the_limit() -> None:
    config = SMALL_WITH_TEXT.replace(max_position_embeddings=3, rope_scaling=None)
    with pytest.raises(ValueError, match="4 tokens are not allowed; expected at most 3"):
        asked({"ids": [1, 2, 3, 4]}, None, config)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(threads=1) as one:
        yield one


def test_the_answer_has_the_form_that_is_documented(llm: LLM) -> None:
    request = {"text": "def add(a, b):\n    return a + b\n" * 30, "position": 200}
    answer = inside_answer(llm, request)
    assert list(answer) == ["position", "token", "tokens", "next", "top", "layers", "mtp", "cache"]
    tokens, layers = answer["tokens"], answer["layers"]
    assert answer["token"] == tokens[200]["text"]  # type: ignore[index]
    assert "".join(token["text"] for token in tokens[1:]) == request["text"]  # type: ignore[index]
    assert answer["next"]["id"] == tokens[201]["id"]  # type: ignore[index]
    assert len(answer["top"]) == 10  # type: ignore[arg-type]
    for layer in layers:  # type: ignore[attr-defined]
        assert list(layer) == ["layer", "kind", "window", "entries", "sink_mass", "experts", "hashed"]
        entries = layer["entries"]
        mass = sum(layer["window"]["mass"]) + layer["sink_mass"] + (sum(entries["mass"]) if entries else 0)
        assert mass == pytest.approx(1, abs=1e-5)
        assert layer["window"]["first"] + len(layer["window"]["mass"]) == 201
        assert sum(expert["weight"] for expert in layer["experts"]) == pytest.approx(1.5, abs=1e-5)
        if layer["kind"] == "csa":
            assert entries["count"] == 201 // 4 and entries["ratio"] == 4 and entries["overlap"]
            assert len(entries["chosen"]) == len(entries["scores"]) == len(entries["mass"])
        if layer["kind"] == "hca":
            assert entries["chosen"] is entries["scores"] is None
            assert len(entries["mass"]) == entries["count"] == 1


def test_characters_of_several_tokens_come_with_the_last() -> None:
    ids = TOKENIZER.encode("aé€")
    assert pieces(ids, TOKENIZER) == ["a", "", "é", "", "", "€"]
    assert pieces(ids[:-1], TOKENIZER) == ["a", "", "é", "", "\ufffd"]
    assert pieces(ids, None) == [""] * 6


def test_entries_stand_for_tokens() -> None:
    csa = LayerSpec(0, 128, 4, overlap=True, indexed=True, hashed=False)
    hca = LayerSpec(0, 128, 128, overlap=False, indexed=False, hashed=False)
    assert [tokens_of(csa, entry) for entry in (0, 1, 5)] == [range(4), range(8), range(16, 24)]
    assert [tokens_of(hca, entry) for entry in (0, 2)] == [range(128), range(256, 384)]


def test_numbers_are_short_and_finite() -> None:
    assert rounded(1 / 3) == 0.333333 and rounded(float(torch.tensor(1e-9) / 3)) == 3.33333e-10
    with pytest.raises(ValueError, match="not finite"):
        rounded(float("nan"))
