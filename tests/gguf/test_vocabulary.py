"""A file's vocabulary: the same tokens as the tokenizer that it was made from, and DeepSeek-V3's way of splitting."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import pytest

from tests.gguf_files import CONFIG, TEXTS, TINY, keys_of, rewritten
from wavefold import LLM, Sampling
from wavefold.chat import Tokenizer, tokenizer_of, train_tokenizer
from wavefold.gguf.vocabulary import SPLITS
from wavefold.system import Notice

ARRAY, TEXT = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING
UINT32, FLOAT32, BOOL = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.BOOL
SAMPLES = ["def add(a, b):\n    return a + b\n", "1234567 é 你好かな ½٣", "<｜User｜>hi<think> a\n\n  \n", ""]


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    return train_tokenizer(TEXTS, CONFIG.vocab_size)


def split_alike(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with DeepSeek-V3's splits in place of its own."""
    values = json.loads(tokenizer._text)
    level = values["pre_tokenizer"]["pretokenizers"][-1]
    splits = [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        for expression in SPLITS
    ]
    values["pre_tokenizer"]["pretokenizers"] = [*splits, level]
    return Tokenizer(json.dumps(values))


def same(ours: Tokenizer, theirs: Tokenizer) -> None:
    ids = range(CONFIG.vocab_size)
    assert [ours.token_bytes(i) for i in ids] == [theirs.token_bytes(i) for i in ids]
    assert [(ours.is_added(i), ours.is_hidden(i)) for i in ids] == [
        (theirs.is_added(i), theirs.is_hidden(i)) for i in ids
    ]
    for text in SAMPLES:
        for special in (False, True):
            assert ours.encode(text, allow_special=special) == theirs.encode(text, allow_special=special)
            assert ours.decode(ours.encode(text, allow_special=special)) == text


def test_a_converted_vocabulary(original):
    same(Tokenizer.load(TINY), split_alike(original))
    assert (Tokenizer.load(TINY).bos_id, Tokenizer.load(TINY).eos_id) == (0, 1)


def test_without_types_of_tokens(original, tmp_path):
    """A token that is no byte and that no merge makes stands outside the merges."""
    path = rewritten(TINY, tmp_path / "model.gguf", keep=lambda key: key != "tokenizer.ggml.token_type")
    same(Tokenizer.load(path), split_alike(original))


def test_a_whole_tokenizer_in_a_key(original, tmp_path):
    add = {"tokenizer.huggingface.json": (original._text, TEXT, None)}
    path = rewritten(TINY, tmp_path / "model.gguf", add=add)
    same(Tokenizer.load(path), original)
    assert Tokenizer.load(path).fingerprint == original.fingerprint


def test_the_template_is_kept_as_a_text(tmp_path):
    template = keys_of(TINY)["tokenizer.chat_template"][0]
    Tokenizer.load(TINY).save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert saved["chat_template"] == template and saved["eos_token"] == "<｜end▁of▁sentence｜>"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.pre", ("default", TEXT, None), "tokenizer.ggml.pre = 'default' is not known; expected"),
        ("tokenizer.ggml.model", ("llama", TEXT, None), "tokenizer.ggml.model = 'llama' is not allowed"),
        ("tokenizer.ggml.merges", (["a b c"], ARRAY, TEXT), "merges holds 'a b c'; expected two tokens"),
        ("tokenizer.ggml.merges", (["a €"], ARRAY, TEXT), "of which the vocabulary lacks a token"),
        ("tokenizer.ggml.tokens", (["a", "a"], ARRAY, TEXT), "token_type has 320 entries for 2 tokens"),
        ("tokenizer.ggml.tokens", (["a"] * 320, ARRAY, TEXT), "holds a text twice"),
        ("tokenizer.huggingface.json", ("{}", TEXT, None), "not a tokenizer file"),
        (
            "tokenizer.ggml.token_type",
            (3, UINT32, None),
            "tokenizer.ggml.token_type is of another kind (int)",
        ),
        ("tokenizer.ggml.token_type", ("x" * 320, TEXT, None), "tokenizer.ggml.token_type is of another kind (str)"),
        ("tokenizer.ggml.token_type", (["a"] * 320, ARRAY, TEXT), "token_type is of another kind (list); expected an"),
        ("tokenizer.ggml.token_type", ([1.0] * 320, ARRAY, FLOAT32), "is of another kind (float32 numbers)"),
        ("tokenizer.ggml.token_type", ([True] * 320, ARRAY, BOOL), "is of another kind (bool numbers); expected"),
    ],
)
def test_a_vocabulary_that_cannot_be_used(key, value, message, tmp_path):
    path = rewritten(TINY, tmp_path / "model.gguf", add={key: value})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Tokenizer.load(path)
    assert str(path) in str(error.value)
    with pytest.warns(Notice, match="texts cannot be read, token ids can"):
        assert tokenizer_of(path) is None


def test_tokens_of_another_kind_beside_a_whole_tokenizer(original, tmp_path):
    add = {"tokenizer.huggingface.json": (original._text, TEXT, None), "tokenizer.ggml.tokens": (7, UINT32, None)}
    path = rewritten(TINY, tmp_path / "model.gguf", add=add)
    with pytest.raises(ValueError, match=re.escape(f"{path}: holds no tokenizer.ggml.tokens, a list of texts")):
        Tokenizer.load(path)


def test_the_front_door(tmp_path):
    """Texts, chats and defaults of sampling, all from the file."""
    add = {"general.sampling.temp": (0.0, gguf.GGUFValueType.FLOAT32, None),
           "general.sampling.top_p": (0.95, gguf.GGUFValueType.FLOAT32, None)}  # fmt: skip
    path = rewritten(TINY, tmp_path / "model.gguf", add=add)
    with LLM(path) as llm:
        resolved = llm.resolved(Sampling())
        assert (resolved.temperature, resolved.top_p) == (0.0, 0.95)
        answer = llm.generate(["def add("], Sampling(max_tokens=4))[0]
        assert answer == llm.generate([[0, *llm.prompt("def add(").ids[1:]]], Sampling(max_tokens=4))[0] or answer.text
        assert llm.chat([{"role": "user", "content": "a"}], Sampling(max_tokens=3)).tokens
        assert str(path) in repr(llm)


def test_a_budget(tmp_path: Path):
    """Experts of a file are read as they are needed, with the answers of those in memory."""
    with LLM(TINY) as whole:
        expected = whole.generate(["a + b"], Sampling(max_tokens=6, temperature=0))[0].tokens
        base = whole.budget
    assert base is None
    with LLM(TINY, memory="2G") as llm:
        assert llm.budget is not None and llm.budget.num_experts == 6
        assert llm.generate(["a + b"], Sampling(max_tokens=6, temperature=0))[0].tokens == expected
