"""Corpus and batches: what is read, what is held out, what a batch holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.train.tiny import write_corpus
from wavefold.train.batches import Batches, cut, pack
from wavefold.train.corpus import is_held_out, load_corpus


def test_folder_is_split_by_file(tmp_path):
    corpus = load_corpus(str(write_corpus(tmp_path / "c")))
    names = {d.name for d in corpus.train}, {d.name for d in corpus.held_out}
    assert len(names[0]) + len(names[1]) == 40
    assert not names[0] & names[1]
    assert names[1] == {f"file{i}.py" for i in range(40) if is_held_out(f"file{i}.py")}


def test_binary_files_are_left_out(tmp_path):
    folder = write_corpus(tmp_path / "c")
    (folder / "image.bin").write_bytes(bytes(range(256)))
    (folder / "zeros").write_bytes(b"a\0b")
    assert len(load_corpus(str(folder)).train + load_corpus(str(folder)).held_out) == 40


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds 0 text files \(0 binary"):
        load_corpus(str(tmp_path))


def test_folder_of_binary_files_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.bin").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"holds 0 text files \(3 binary"):
        load_corpus(str(tmp_path))


def test_unknown_source_is_refused():
    with pytest.raises(ValueError, match="'no/such/folder' is not allowed"):
        load_corpus("no/such/folder")


def test_standard_library_is_the_listed_one_or_says_so():
    try:
        corpus = load_corpus("stdlib")
    except ValueError as error:
        assert "another Python release" in str(error)
    else:
        assert len(corpus.train) > 10 * len(corpus.held_out) > 0
        assert not any("test" in d.name.split("/") for d in corpus.train)


def test_pieces_cover_a_document_once():
    document = np.arange(100)
    pieces = cut(document, 30)
    assert np.concatenate([p[:-1] for p in pieces[:-1]] + [pieces[-1]]).tolist() == list(range(100))
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(pieces))


def test_targets_are_the_next_tokens_and_never_of_another_document():
    packed = pack([np.arange(0, 10), np.arange(50, 55)])
    assert packed.lengths == (9, 4)
    assert (packed.targets == packed.tokens + 1).all()


def test_a_batch_depends_on_seed_and_step_alone():
    documents = [list(range(i, i + 50)) for i in range(0, 3000, 50)]
    one, two = (Batches(documents, 20, 100, seed=3) for _ in range(2))
    for step in (0, 7, one.per_epoch, 2 * one.per_epoch + 1):
        two(step + 1)
        assert one(step).tokens.equal(two(step).tokens)
    assert not one(0).tokens.equal(Batches(documents, 20, 100, seed=4)(0).tokens)


def test_an_epoch_holds_every_token_once():
    documents = [list(range(i, i + 50)) for i in range(0, 3000, 50)]
    batches = Batches(documents, 20, 100, seed=0)
    seen = [t for step in range(batches.per_epoch) for t in batches(step).targets.tolist()]
    assert sorted(seen) == sorted(t for d in documents for t in d[1:])


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(ValueError, match="fewer than one sequence"):
        Batches([[1, 2, 3]], 128, 1024, 0)
