"""Prompts that end inside a token: the last token is taken back, and the answer begins with its bytes."""

from __future__ import annotations

import pytest

from tests.small import SMALL
from wavefold.chat import StreamDecoder, Tokenizer, byte_tokenizer, heal, train_tokenizer
from wavefold.checkpoint.random import random_model
from wavefold.engine import generate
from wavefold.ops import Arithmetic

TEXTS = ["def f(n):\n    return n\n", "class A:\n    def g(self):\n        return (1)\n"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 360)


def test_the_last_token_may_become_one_that_goes_on(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def f(n):", bos=True)
    prompt = heal(tokenizer, ids)
    assert prompt.ids == ids[:-1] and prompt.taken == tokenizer.token_bytes(ids[-1])
    assert prompt.first_ids is not None and ids[-1] in prompt.first_ids
    texts = [tokenizer.token_bytes(i) for i in prompt.first_ids]
    assert any(b"\n" in text for text in texts) and all(text.startswith(prompt.taken) for text in texts)


def test_nothing_is_taken_back_where_nothing_could_stand_in_its_place(tokenizer: Tokenizer) -> None:
    assert heal(tokenizer, [tokenizer.bos_id]).ids == [tokenizer.bos_id]
    ids = byte_tokenizer().encode("def f(n):", bos=True)
    assert heal(byte_tokenizer(), ids).ids == ids and heal(byte_tokenizer(), ids).first_ids is None
    assert not any(i in tokenizer._added for i in tokenizer.beginning_with(b"<"))


def test_answers_begin_where_the_prompt_ends(tokenizer: Tokenizer) -> None:
    model = random_model(SMALL.replace(vocab_size=tokenizer.vocab_size), 0, Arithmetic("exact"))
    prompt = heal(tokenizer, tokenizer.encode("def f(n):", bos=True))
    assert prompt.first_ids is not None
    for seed in range(20):
        ids = list(generate(model, prompt.ids, 4, seed=seed, first_ids=prompt.first_ids, stop_ids=()))
        assert ids[0] in prompt.first_ids
        whole = tokenizer.decode([*prompt.ids[1:], *ids])
        stream = StreamDecoder(tokenizer, len(prompt.taken))
        text = "".join(map(stream.push, ids)) + stream.finish()
        assert whole == "def f(n):" + text and text == tokenizer.decode(ids, len(prompt.taken))


def test_skipped_bytes_may_span_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("return (1)")
    for skip in range(11):
        stream = StreamDecoder(tokenizer, skip)
        assert "".join(map(stream.push, ids)) + stream.finish() == "return (1)"[skip:]


def test_special_tokens_are_not_taken_back(tokenizer: Tokenizer) -> None:
    """A text token whose bytes begin as the marker's must not stand in for it."""
    texts = train_tokenizer(["</think></think>x " * 50], 400)
    ids = texts.encode("a</think>", bos=True, allow_special=True)
    assert texts.is_added(ids[-1])
    assert heal(texts, ids).ids == ids


def test_a_prompt_counts_the_token_that_was_taken_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def f(n):", bos=True)
    assert heal(tokenizer, ids).num_tokens == len(ids) == len(heal(tokenizer, ids).ids) + 1
    assert heal(tokenizer, ids[:1]).num_tokens == 1


def test_the_ids_of_an_answers_first_token_are_in_order(tokenizer: Tokenizer) -> None:
    """Ranks compare them, and the library's order is another in every process."""
    first = tokenizer.beginning_with(b" ")
    assert len(first) > 3 and list(first) == sorted(first)
