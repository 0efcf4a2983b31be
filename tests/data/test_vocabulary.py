"""Ids of another tokenizer are refused before the first step, by document and id, or by what shards say of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.train.tiny import CONFIG, write_corpus
from wavefold.chat import Tokenizer
from wavefold.chat.tokenizer import byte_tokenizer, train_tokenizer
from wavefold.cli.main import main
from wavefold.data.batches import Tokens
from wavefold.data.shards import TokenShards, write_shards
from wavefold.data.vocabulary import check_ids, check_shards

TEXTS = ["def f(x):\n    return x + 1\n" * 9, "class A:\n    pass\n" * 9]


def random_documents(vocab_size: int) -> list[Tokens]:
    return [Tokens(np.random.default_rng(i).integers(0, vocab_size, 100)) for i in range(40)]


def test_an_id_beyond_the_vocabulary_names_document_and_id() -> None:
    documents = [("a.py", Tokens(np.array([1, 319]))), ("b.py", Tokens(np.array([5, 320, 2])))]
    check_ids(documents, 321)
    with pytest.raises(ValueError, match=r"document b\.py: id 320 is not allowed; expected 0 to 319"):
        check_ids(documents, 320)


def test_a_fingerprint_is_of_what_ids_mean() -> None:
    one, other = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS[:1], 300)
    again = Tokenizer(json.dumps(json.loads(one._text), indent=4))  # the same, formatted otherwise
    assert one.fingerprint == again.fingerprint and again._text != one._text
    assert len({one.fingerprint, other.fingerprint, byte_tokenizer().fingerprint}) == 3


def test_shards_name_their_tokenizer(tmp_path: Path) -> None:
    tokenizer, other = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS[:1], 300)
    write_shards(tmp_path / "s", random_documents(300), 300, tokenizer=tokenizer.fingerprint)
    shards = TokenShards(tmp_path / "s")
    check_shards(shards, tokenizer.fingerprint, 300, 320)
    with pytest.raises(ValueError, match=r"another tokenizer's; write the shards anew with the model's tokenizer"):
        check_shards(shards, other.fingerprint, 300, 320)  # the same vocab_size: a size alone would not tell


def test_shards_without_a_tokenizer_are_compared_by_size(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", random_documents(256), 256)
    shards = TokenShards(tmp_path / "s")
    assert shards.tokenizer is None
    check_shards(shards, "", 256, 320)
    check_shards(shards, "", 250, 256)  # written with the model's vocab_size
    with pytest.raises(ValueError, match="vocab_size = 256 is not allowed; expected 300, the tokenizer's, or 320"):
        check_shards(shards, "", 300, 320)


def test_shards_of_a_tokenizer_larger_than_the_model_are_read_through(tmp_path: Path) -> None:
    documents = random_documents(256)
    write_shards(tmp_path / "s", documents, 400)
    check_shards(TokenShards(tmp_path / "s"), "", 400, 320)  # no id needs the missing rows
    documents[7] = Tokens(np.array([1, 350, 2]))
    write_shards(tmp_path / "s", documents, 400)
    with pytest.raises(ValueError, match=r"document 7 of .*: id 350 is not allowed; expected 0 to 319"):
        check_shards(TokenShards(tmp_path / "s"), "", 400, 320)


def test_an_index_with_a_tokenizer_that_is_no_text_is_damaged(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", random_documents(256), 256, tokenizer="x")
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    (tmp_path / "s" / "index.json").write_text(json.dumps(index | {"tokenizer": 3}))
    with pytest.raises(ValueError, match="is not an index of token shards"):
        TokenShards(tmp_path / "s")


def test_the_command_refuses_before_the_first_step(tmp_path: Path, capsys) -> None:
    """A tokenizer in OUT that is larger than the model, and shards of another vocabulary."""
    config, out = tmp_path / "config.json", tmp_path / "out"
    config.write_text(json.dumps(CONFIG.to_dict()))
    data = write_corpus(tmp_path / "corpus")
    flags = ["--dtype", "float32", "--set", "steps=2", "length_stages=((0,160),)", "batch_tokens=320"]
    out.mkdir()
    train_tokenizer((p.read_text() for p in data.iterdir()), 400).save(out)
    assert main(["train", "--config", str(config), "--data", str(data), "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert "document file" in error and "is not allowed; expected 0 to 319" in error
    assert not (out / "log.jsonl").exists()
    assert main(["init", "--config", str(config), "--out", str(tmp_path / "model")]) == 0
    write_shards(tmp_path / "small", random_documents(250), 250)
    command = ["train", "--init", str(tmp_path / "model"), "--data", str(tmp_path / "small"), *flags]
    assert main([*command, "--out", str(tmp_path / "out2")]) == 2
    assert "vocab_size = 250 is not allowed" in capsys.readouterr().err
