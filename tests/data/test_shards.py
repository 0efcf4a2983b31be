"""Token shards: what was written comes back, private and whole; what is damaged or no token is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wavefold.data.batches import Batches, Tokens, fixed_batches
from wavefold.data.corpus import is_held_out
from wavefold.data.shards import TokenShards, is_shards, split_shards, write_shards

VOCAB = 1000


def some(num: int = 60, vocab_size: int = VOCAB, masked: bool = True) -> list[Tokens]:
    """Documents of 1 to 40 random ids, every third one with a mask."""
    rng = np.random.default_rng(0)
    documents = []
    for number in range(num):
        ids = rng.integers(0, vocab_size, rng.integers(1, 41))
        documents.append(Tokens(ids, rng.random(len(ids)) < 0.5 if masked and number % 3 == 2 else None))
    return documents


def assert_same(read: Tokens, written: Tokens) -> None:
    assert np.array_equal(read.ids, written.ids)
    assert (read.learned is None) == (written.learned is None)
    assert read.learned is None or np.array_equal(read.learned, written.learned)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", some(), VOCAB, shard_bytes=400)
    return tmp_path / "shards"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1000, "<u2"), (65536, "<u2"), (65537, "<u4"), (2**32, "<u4")])
@pytest.mark.parametrize("shard_bytes", [1, 400, 1 << 28])
def test_documents_come_back(tmp_path, vocab_size, dtype, shard_bytes):
    documents = [*some(vocab_size=vocab_size), Tokens(np.array([0, vocab_size - 1]))]
    write_shards(tmp_path / "s", iter(documents), vocab_size, shard_bytes)
    shards = TokenShards(tmp_path / "s")
    shards.check()
    assert len(shards) == len(documents) and shards.vocab_size == vocab_size
    assert shards.num_tokens == sum(map(len, documents))
    for read, written in zip(shards, documents, strict=True):
        assert_same(read, written)
        assert read.ids.dtype == np.dtype(dtype)
    assert shards.lengths.tolist() == [len(d) for d in documents]
    assert shards.masked.tolist() == [d.learned is not None for d in documents]
    files = [file for file in (tmp_path / "s").iterdir() if file.name.startswith("tokens-")]
    assert len(files) == {1: len(documents), 1 << 28: 1}.get(shard_bytes, len(files))
    if shard_bytes == 400:
        assert len(files) > 5 and all(file.stat().st_size <= 400 for file in files)


def test_masks_are_written_where_there_are_some(tmp_path):
    write_shards(tmp_path / "plain", some(masked=False), VOCAB)
    assert names(tmp_path / "plain") == ["index.json", "lengths.bin", "masked.bin", "tokens-00001.bin"]
    write_shards(tmp_path / "masked", some(), VOCAB)
    learned = np.fromfile(tmp_path / "masked" / "learned-00001.bin", np.uint8)
    expected = [np.ones(len(d), bool) if d.learned is None else d.learned for d in some()]
    assert np.array_equal(learned, np.concatenate(expected))


def test_files_are_private(folder):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_batches_of_shards_are_those_of_the_documents(folder):
    stored, here = (Batches(documents, 0, lambda step: (16, 64)) for documents in (TokenShards(folder), some()))
    for step in range(60):
        one, two = stored(step), here(step)
        assert one.tokens.equal(two.tokens) and one.targets.equal(two.targets) and one.lengths == two.lengths
    assert len(fixed_batches(TokenShards(folder), 16, 64)) == len(fixed_batches(some(), 16, 64))


def test_shards_are_mapped_and_not_copied(folder):
    ids = TokenShards(folder)[3].ids
    assert not ids.flags.owndata and not ids.flags.writeable


def test_split_is_fixed_and_whole(folder):
    shards = TokenShards(folder)
    train, held_out = split_shards(shards)
    assert len(train) + len(held_out) == len(shards) and len(held_out) > 0
    expected = [n for n in range(len(shards)) if is_held_out(str(n))]
    assert len(expected) == len(held_out)
    for read, number in zip(held_out, expected, strict=True):
        assert_same(read, shards[number])
    assert int(train.lengths.sum() + held_out.lengths.sum()) == shards.num_tokens


def test_split_of_few_documents(tmp_path):
    write_shards(tmp_path / "two", some(2), VOCAB)
    assert [len(part) for part in split_shards(TokenShards(tmp_path / "two"))] == [1, 1]
    write_shards(tmp_path / "one", some(1), VOCAB)
    with pytest.raises(ValueError, match="holds 1 document; expected at least 2"):
        split_shards(TokenShards(tmp_path / "one"))


@pytest.mark.parametrize("wrong", [-1, VOCAB, 2**40, 65536 + 5])
def test_ids_outside_of_the_vocabulary_are_refused_and_nothing_appears(tmp_path, wrong):
    documents = [*some(), Tokens(np.array([5, 6, wrong, 7]))]
    with pytest.raises(ValueError, match=f"document 60, token 2: id {wrong} is not allowed; expected 0 to 999"):
        write_shards(tmp_path / "s", documents, VOCAB, shard_bytes=400)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_no_ids_are_refused():
    with pytest.raises(ValueError, match="ids of float64"):
        Tokens(np.array([1.0, np.nan]))


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no documents to write"):
        write_shards(tmp_path / "s", [], VOCAB)
    with pytest.raises(ValueError, match="document 1 has no tokens"):
        write_shards(tmp_path / "s", [Tokens(np.arange(3)), Tokens(np.zeros(0, int))], VOCAB)
    with pytest.raises(ValueError, match="vocab_size = 0 is not allowed"):
        write_shards(tmp_path / "s", some(), 0)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_replaced_and_other_folders_are_not(folder, tmp_path):
    write_shards(folder, some(5), VOCAB)
    assert len(TokenShards(folder)) == 5
    assert names(folder) == ["index.json", "learned-00001.bin", "lengths.bin", "masked.bin", "tokens-00001.bin"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.json").write_text('{"format": "chapters"}')
    with pytest.raises(ValueError, match="thesis: holds no token shards, so it is not replaced"):
        write_shards(tmp_path / "thesis", some(), VOCAB)
    with pytest.raises(ValueError, match="is not a folder"):
        write_shards(tmp_path / "thesis" / "index.json", some(), VOCAB)
    (tmp_path / "empty").mkdir()
    write_shards(tmp_path / "empty", some(5), VOCAB)


def test_what_was_there_stays_when_documents_fail(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def failing() -> Iterator[Tokens]:
        yield from some()
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        write_shards(folder, failing(), VOCAB)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["shards"]


def test_an_empty_folder_and_a_checkpoint_are_no_shards(tmp_path, folder):
    with pytest.raises(ValueError, match=r"holds no index\.json; expected a folder of token shards"):
        TokenShards(tmp_path)
    assert is_shards(folder) and not is_shards(tmp_path) and not is_shards(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["tokens-00002.bin", "learned-00001.bin", "lengths.bin", "masked.bin"])
@pytest.mark.parametrize("damage", ["shorter", "longer", "missing", "folder"])
def test_a_file_of_another_size_is_refused_before_it_is_mapped(folder, name, damage):
    path, data = folder / name, (folder / name).read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(data[:-1] if damage == "shorter" else data + b"\0")
    found = f"has {len(data) - 1 if damage == 'shorter' else len(data) + 1} bytes"
    found = "is missing" if damage in ("missing", "folder") else found
    with pytest.raises(ValueError, match=f"{name}: {found}; the index says {len(data)}; the shards are damaged"):
        TokenShards(folder)


def test_a_changed_byte_is_found_by_check(folder):
    for name in ("tokens-00001.bin", "learned-00002.bin"):
        path = folder / name
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(ValueError, match=rf"{name}: is not what was written"):
            TokenShards(folder).check()
        path.write_bytes(good)
    TokenShards(folder).check()


def test_an_id_that_cannot_be_is_found_when_it_is_read(folder):
    path = folder / "tokens-00001.bin"
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    shards = TokenShards(folder)
    with pytest.raises(ValueError, match=r"tokens-00001\.bin: document 0 holds id 65535 of a vocabulary of 1000"):
        shards[0]
    assert len(shards[1]) > 0


def change(folder: Path, **facts: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | facts))


@pytest.mark.parametrize(
    "facts",
    [
        {"format": "other"},
        {"dtype": "<f4"},
        {"dtype": "object"},
        {"vocab_size": "1000"},
        {"documents": None},
        {"files": {}},
        {"files": []},
        {"files": {"../tokens-00001.bin": {"bytes": 1, "sha256": ""}}},
        {"files": {"tokens-00001.bin": {"bytes": 1.5, "sha256": ""}}},
        {"files": {"tokens-00001.bin": 3}},
    ],
)
def test_an_index_that_is_none_is_refused(folder, facts):
    change(folder, **facts)
    with pytest.raises(ValueError, match=r"index\.json: .*the shards are damaged"):
        TokenShards(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": NaN}'])
def test_an_index_that_is_no_object_is_refused(folder, text):
    (folder / "index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json: cannot be read"):
        TokenShards(folder)


@pytest.mark.parametrize("lengths", ["one more", "negative", "huge", "across files"])
def test_lengths_that_do_not_fit_are_refused(folder, lengths):
    """The sizes are right, the numbers are not."""
    path = folder / "lengths.bin"
    values = np.fromfile(path, "<i8")
    if lengths == "one more":
        values[0] += 1
    elif lengths == "negative":
        values[:2] = -1, values[:2].sum() + 1
    elif lengths == "huge":
        values[:4] += 2**62  # together nothing, in 64 bits
    else:
        values[:] = np.roll(values, 1)
    values.tofile(path)
    with pytest.raises(ValueError, match=r"lengths\.bin: does not fit the \d+ tokens of the other files"):
        TokenShards(folder)


def test_another_number_of_documents_is_refused(folder):
    change(folder, documents=59)
    with pytest.raises(ValueError, match=r"lengths\.bin: does not fit"):
        TokenShards(folder)


def test_a_mask_that_is_not_there_is_refused(tmp_path):
    write_shards(tmp_path / "s", some(masked=False), VOCAB)
    np.ones(60, np.uint8).tofile(tmp_path / "s" / "masked.bin")
    with pytest.raises(ValueError, match=r"masked\.bin: names documents of a shard without learned"):
        TokenShards(tmp_path / "s")


def test_numbers_out_of_range_end_an_iteration(folder):
    shards = TokenShards(folder)
    assert len(list(shards)) == 60
    with pytest.raises(IndexError):
        shards[60]


def test_a_writer_names_what_is_held_out(tmp_path: Path) -> None:
    documents = some(20)
    write_shards(tmp_path / "s", documents[:17], VOCAB, shard_bytes=400, held_out=iter(documents[17:]))
    shards = TokenShards(tmp_path / "s")
    assert (len(shards), shards.num_held_out) == (20, 3)
    train, held_out = split_shards(shards)
    for part, written in ((train, documents[:17]), (held_out, documents[17:])):
        for read, document in zip(part, written, strict=True):
            assert_same(read, document)
    with pytest.raises(ValueError, match="no documents to write as token shards"):
        write_shards(tmp_path / "s", [], VOCAB, held_out=documents)
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    for wrong in (0, -1, 20, 21, "3", True):
        (tmp_path / "s" / "index.json").write_text(json.dumps(index | {"held_out": wrong}))
        with pytest.raises(ValueError, match="is not an index of token shards"):
            TokenShards(tmp_path / "s")
