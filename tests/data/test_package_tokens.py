"""Token shards of packages: the same files again, held-out documents last, chats with their marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.archives import module
from wavefold.chat import Tokenizer
from wavefold.data.corpus import Corpus, Document
from wavefold.data.instruct import instruct_chats
from wavefold.data.packages import tokens
from wavefold.data.shards import TokenShards, split_shards

NAMES = [f"apple{chr(97 + i)}{chr(97 + j)}" for i in range(8) for j in range(8)]
TRAIN = tuple(Document(f"one-1.0/src/one/{name}.py", module(name)) for name in NAMES)
HELD_OUT = tuple(Document(f"two-2.0/two/{name}.py", module(name)) for name in ("pear", "plum"))
CORPUS = Corpus("stdlib+packages", TRAIN, HELD_OUT)


@pytest.fixture
def chats() -> tuple[tokens.Chats, tokens.Chats]:
    return tokens.chats_of(TRAIN[:6], 5, 3), tokens.chats_of(HELD_OUT, 2, 1)


def build(folder: Path, chats: tuple[tokens.Chats, tokens.Chats], lines: list[str] | None = None) -> dict[str, str]:
    return tokens.build_shards(folder, CORPUS, chats, 420, (lines if lines is not None else []).append)


def test_the_same_corpus_makes_the_same_files(tmp_path: Path, chats: tuple[tokens.Chats, tokens.Chats]) -> None:
    lines: list[str] = []
    hashes = build(tmp_path / "a", chats, lines)
    assert build(tmp_path / "b", chats) == hashes and set(hashes) == {"tokenizer", "text", "last"}
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 11
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert build(tmp_path / "c", (chats[0][:-1], chats[1]))["last"] != hashes["last"]
    assert "bytes a token of held-out documents" in lines[-1]


def test_text_is_every_document_and_packages_stay_held_out(
    tmp_path: Path, chats: tuple[tokens.Chats, tokens.Chats]
) -> None:
    build(tmp_path, chats)
    tokenizer, shards = Tokenizer.load(tmp_path), TokenShards(tmp_path / "text")
    assert shards.tokenizer == tokenizer.fingerprint
    for part, documents in zip(split_shards(shards), (TRAIN, HELD_OUT), strict=True):
        read = [tokenizer.decode(document.ids[1:-1].tolist()) for document in part]
        assert read == [document.text for document in documents]
    num_bytes = sum(len(document.text) for document in HELD_OUT)
    assert tokens.bytes_a_token(tmp_path / "text", HELD_OUT) == num_bytes / sum(
        len(tokenizer.encode(document.text)) for document in HELD_OUT
    )


def test_some_documents_are_there_several_times(tmp_path: Path, chats: tuple[tokens.Chats, tokens.Chats]) -> None:
    """To learn from; what is held out never is."""
    often = {TRAIN[1].name, HELD_OUT[0].name}
    tokens.build_shards(tmp_path, CORPUS, chats, 420, lambda line: None, often)
    tokenizer, shards = Tokenizer.load(tmp_path), TokenShards(tmp_path / "text")
    train, held_out = (
        [tokenizer.decode(document.ids[1:-1].tolist()) for document in part] for part in split_shards(shards)
    )
    assert train == [TRAIN[0].text, *[TRAIN[1].text] * tokens.STDLIB_TIMES, *[d.text for d in TRAIN[2:]]]
    assert held_out == [document.text for document in HELD_OUT]


def test_a_part_of_what_is_held_out_is_evaluated(tmp_path: Path, chats: tuple[tokens.Chats, tokens.Chats]) -> None:
    held_out = tuple(Document(f"two-2.0/two/{name}.py", module(name)) for name in NAMES)
    tokens.build_shards(tmp_path, Corpus("stdlib+packages", TRAIN, held_out), chats, 420, lambda line: None)
    tokenizer, part = Tokenizer.load(tmp_path), split_shards(TokenShards(tmp_path / "text"))[1]
    expected = [document.text for document in tokens.sampled(held_out, tokens.EVALUATED)]
    assert [tokenizer.decode(document.ids[1:-1].tolist()) for document in part] == expected
    assert 0 < len(expected) < len(held_out)


def test_the_last_part_has_text_and_chats(
    tmp_path: Path, chats: tuple[tokens.Chats, tokens.Chats], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, chats)
    train, held_out = split_shards(TokenShards(tmp_path / "last"))
    num_text = len(tokens.sampled(TRAIN, tokens.KEPT_TEXT))
    assert 0 < num_text < len(TRAIN)
    assert train.masked.tolist() == [False] * num_text + [True] * len(chats[0])
    assert held_out.masked.sum() == len(chats[1]) > 0
    tokenizer = Tokenizer.load(tmp_path)
    for document, chat in zip([d for d in train if d.learned is not None], chats[0], strict=True):
        learned = np.asarray(document.ids)[document.learned].tolist()
        assert tokenizer.decode(learned[:-1]) == chat[1]["content"] and learned[-1] == tokenizer.eos_id
    monkeypatch.setattr(tokens, "LONGEST_CHAT", 60)
    build(tmp_path / "short", chats)
    short = split_shards(TokenShards(tmp_path / "short" / "last"))[0]
    assert 0 < short.masked.sum() < len(chats[0]) and short.lengths[short.masked].max() <= 60


def test_both_kinds_of_chats_alternate_and_none_is_lost() -> None:
    mixed = tokens.chats_of(TRAIN[:6], 9, 3)
    assert len(mixed) == 12 and len({chat[0]["content"] for chat in mixed}) == 12
    asked = [chat in instruct_chats(TRAIN[:6], tokens.SEED) for chat in mixed]
    assert asked == [True, False] * 3 + [True] * 6


def test_a_sample_is_a_fixed_part() -> None:
    documents = [Document(f"{number}.py", "") for number in range(2000)]
    part = tokens.sampled(documents, 8)
    assert 200 < len(part) < 300 and part == tokens.sampled(documents, 8)
    assert tokens.sampled(documents, 1) == documents


def test_modules_of_packages_have_their_import_names() -> None:
    names = [
        "attrs-26.1.0/src/attr/_make.py",
        "six-1.0/six.py",
        "a-1.0/docs/conf.py",
        "lib/two.py",
        "x-1.0/a/__init__.py",
    ]
    text = 'def make():\n    """Make it."""\n'
    questions = " ".join(chat[0]["content"] for chat in instruct_chats([Document(name, text) for name in names], 0))
    for path in ("`attr._make.make`", "`six.make`", "`lib.two.make`", "`a.make`"):
        assert path in questions
    assert "conf" not in questions and "26" not in questions
