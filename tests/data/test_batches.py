"""Corpus and batches: what is read, what is held out, what a batch holds."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavefold.data.batches import IGNORED, MIN_PIECE, Batches, PackedBatch, Tokens, cut, fixed_batches, pack
from wavefold.data.corpus import is_held_out, load_corpus
from wavefold.data.fim import FillInMiddle


def write_files(folder: Path, num: int = 40) -> Path:
    """Small text files."""
    folder.mkdir()
    for number in range(num):
        (folder / f"file{number}.py").write_text(f"x = {number}\n")
    return folder


def always(seq_len: int, batch_tokens: int) -> Callable[[int], tuple[int, int]]:
    return lambda step: (seq_len, batch_tokens)


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents of which every token is another number: a thousand times the document's, and on."""
    return [np.arange(1000 * number, 1000 * number + length) for number, length in enumerate(lengths)]


def same(one: PackedBatch, two: PackedBatch) -> bool:
    return one.tokens.equal(two.tokens) and one.targets.equal(two.targets) and one.lengths == two.lengths


def targets_of_an_epoch(batches: Batches, num_targets: int, first: int = 0) -> list[int]:
    """The first `num_targets` targets in the order of batches, from the step `first` on."""
    seen: list[int] = []
    for step in itertools.count(first):
        seen += batches(step).targets.tolist()
        if len(seen) >= num_targets:
            return seen[:num_targets]


LENGTHS = [50, 3, 21, 40, 41, 42, 48, 49, 100, 7, 64, 2, 90]
EVERY_TARGET = sorted(t for document in numbered(LENGTHS) for t in document[1:].tolist())


def test_folder_is_split_by_file(tmp_path):
    corpus = load_corpus(str(write_files(tmp_path / "c")))
    names = {d.name for d in corpus.train}, {d.name for d in corpus.held_out}
    assert len(names[0]) + len(names[1]) == 40
    assert not names[0] & names[1]
    assert names[1] == {f"file{i}.py" for i in range(40) if is_held_out(f"file{i}.py")} != set()


def test_binary_files_are_left_out(tmp_path):
    folder = write_files(tmp_path / "c")
    (folder / "image.bin").write_bytes(bytes(range(256)))
    (folder / "zeros").write_bytes(b"a\0b")
    assert len(load_corpus(str(folder)).train + load_corpus(str(folder)).held_out) == 40


def test_hidden_files_are_left_out(tmp_path):
    """Keys, environments and version control are no text to learn; a hidden folder may be named itself."""
    folder = write_files(tmp_path / ".c")
    before = load_corpus(str(folder))
    for name in (".env", ".git/HEAD", "below/.venv/lib/a.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("API_KEY=1")
    assert load_corpus(str(folder)) == before and len(before.train + before.held_out) == 40
    (tmp_path / "list.txt").write_text(".c\n")
    listed = load_corpus(str(tmp_path / "list.txt"))
    assert len(listed.train + listed.held_out) == 40
    with pytest.raises(ValueError, match=r"holds 0 text files \(1 binary or hidden ones left out\)"):
        load_corpus(str(folder / "below"))


def test_of_a_binary_file_the_beginning_alone_is_read(tmp_path):
    """A checkpoint may lie in the folder, larger than memory."""
    folder = write_files(tmp_path / "c")
    with (folder / "weights").open("wb") as file:
        file.truncate(1 << 36)  # takes no place on the disk
    assert len(load_corpus(str(folder)).train + load_corpus(str(folder)).held_out) == 40


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds 0 text files \(0 binary"):
        load_corpus(str(tmp_path))


def test_folder_of_binary_files_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.bin").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"holds 0 text files \(3 binary"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("source", ["no/such/folder", "list.txt", "chats.jsonl", "stdlib "])
def test_unknown_source_is_refused(source):
    with pytest.raises(ValueError, match=f"'{source}' is not allowed; expected 'stdlib', an existing folder, a .txt"):
        load_corpus(source)


def test_a_corpus_of_held_out_names_alone_keeps_something_to_learn_from(tmp_path):
    names = [name for name in map(str, range(1000)) if is_held_out(name)][:3]
    for name in names:
        (tmp_path / name).write_text("x")
    corpus = load_corpus(str(tmp_path))
    assert (len(corpus.train), len(corpus.held_out)) == (2, 1)


def test_standard_library_is_the_listed_one_or_says_so():
    try:
        corpus = load_corpus("stdlib")
    except ValueError as error:
        assert "another Python release" in str(error)
    else:
        assert len(corpus.train) > 10 * len(corpus.held_out) > 0
        assert not any("test" in d.name.split("/") for d in corpus.train)


def test_a_list_names_files_and_folders_relative_to_it(tmp_path):
    write_files(tmp_path / "c", 4)
    (tmp_path / "lists").mkdir()
    (tmp_path / "one.md").write_text("one")
    listed = tmp_path / "lists" / "mine.txt"
    listed.write_text("# what I read\n\n../c/file2.py\n../c\n../one.md\n")
    corpus = load_corpus(str(listed))
    documents = {d.name: d.text for d in corpus.train + corpus.held_out}
    assert documents == {f"../c/file{i}.py": f"x = {i}\n" for i in range(4)} | {"../one.md": "one"}
    assert len(corpus.train) + len(corpus.held_out) == 5  # file2.py once
    assert corpus.name == "mine"


@pytest.mark.parametrize("line", ["nowhere", "image.bin"])
def test_a_list_of_what_cannot_be_read_is_refused(tmp_path, line):
    (tmp_path / "image.bin").write_bytes(b"\xff")
    (tmp_path / "a.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"a\.txt:2: '{line}' is not allowed; expected a UTF-8 file or a folder"):
        load_corpus(str(tmp_path / "a.txt"))


def test_a_list_that_is_no_text_and_one_of_nothing_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_bytes(b"\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_corpus(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="names 0 text files"):
        load_corpus(str(tmp_path / "b.txt"))


def test_chats_are_a_corpus(tmp_path):
    lines = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
             for i in range(40)]  # fmt: skip
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = load_corpus(str(tmp_path / "c.jsonl"))
    assert {d.name for d in corpus.held_out} == {f"c.jsonl:{i}" for i in range(1, 41) if is_held_out(f"c.jsonl:{i}")}
    assert corpus.train[0].messages == tuple(lines[0]["messages"])
    assert corpus.train[0].text == "q0\n\na0"


class Rows:
    """As much of datasets.Dataset as is used."""

    def __init__(self, **columns: list):
        self.columns, self.column_names = columns, list(columns)

    def __getitem__(self, name: str) -> list:
        return self.columns[name]


@pytest.fixture
def fake_datasets(monkeypatch) -> types.ModuleType:
    """A module that knows one name, with one split, and two saved folders."""
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = Rows(text=["one", "", "three", "four"], code=["c1", "c2", "c3", "c4"], messages=[chat] * 4, n=[1, 2, 3, 4])

    def load_dataset(name: str, split: str) -> Rows:
        if name != "me/stories":
            raise FileNotFoundError(f"Dataset {name!r} doesn't exist on the Hub")
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return rows

    saved = {"/one": rows, "/several": {"train": rows, "test": Rows(messages=[chat] * 3)}}
    module = types.ModuleType("datasets")
    module.load_dataset, module.load_from_disk = load_dataset, saved.__getitem__
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def texts(source: str) -> list[str]:
    corpus = load_corpus(source)
    return [d.text for d in sorted(corpus.train + corpus.held_out, key=lambda d: int(d.name))]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("datasets:me/stories", ["one", "three", "four"]),
        ("datasets:me/stories:train:code", ["c1", "c2", "c3", "c4"]),
        ("datasets:me/stories::messages", ["q\n\na"] * 4),
        ("datasets:/one", ["one", "three", "four"]),
        ("datasets:/one::code", ["c1", "c2", "c3", "c4"]),
        ("datasets:/several", ["one", "three", "four"]),
        ("datasets:/several:test", ["q\n\na"] * 3),
    ],
)
def test_a_dataset_is_a_corpus(fake_datasets, source, expected):
    assert texts(source) == expected


def test_a_dataset_of_chats_has_their_messages(fake_datasets):
    assert [m["role"] for m in load_corpus("datasets:/several:test").train[0].messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("datasets:", "expected datasets:NAME"),
        ("datasets:a:b:c:d", "expected datasets:NAME"),
        ("datasets:nobody", "cannot be read: Dataset 'nobody' doesn't exist"),
        ("datasets:me/stories:test", "cannot be read: Unknown split"),
        ("datasets:me/stories:train:nope", "column 'nope' is not there; expected one of text, code, messages, n"),
        ("datasets:me/stories:train:n", "row 0: n = int is not allowed; expected text"),
        ("datasets:/one:train", "has no splits, so 'train' is not allowed"),
        ("datasets:/several:dev", "split 'dev' is not there; expected one of train, test"),
    ],
)
def test_a_dataset_that_cannot_be_used_says_why(fake_datasets, source, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(source)


def test_datasets_that_is_not_installed_says_how(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'wavefold\[datasets\]'"):
        load_corpus("datasets:me/stories")


@given(length=st.integers(2, 400), seq_len=st.integers(1, 60))
def test_pieces_cover_a_document_once(length, seq_len):
    pieces = [piece.ids for piece in cut(np.arange(length), seq_len)]
    assert np.concatenate([p[:-1] for p in pieces[:-1]] + [pieces[-1]]).tolist() == list(range(length))
    assert all(a[-1] == b[0] for a, b in itertools.pairwise(pieces))
    assert all(2 <= len(p) <= seq_len + 1 for p in pieces)
    assert len(pieces) == -(-(length - 1) // seq_len)
    if seq_len >= 2 * MIN_PIECE and len(pieces) > 1:
        assert min(len(p) - 1 for p in pieces) >= MIN_PIECE


def test_targets_are_the_next_tokens_and_never_of_another_document():
    packed = pack([np.arange(0, 10), np.arange(50, 55)])
    assert packed.lengths == (9, 4)
    assert (packed.targets == packed.tokens + 1).all()
    assert packed.num_targets == 13 and packed.num_pairs == 11


def test_what_is_not_learned_is_no_target():
    learned = np.array([False, False, True, True, False])
    packed = pack([Tokens(np.arange(5), learned), np.arange(10, 13)])
    assert packed.targets.tolist() == [IGNORED, 2, 3, IGNORED, 11, 12]
    assert packed.tokens.tolist() == [0, 1, 2, 3, 10, 11]
    assert packed.num_targets == 4
    assert packed.share(0, 2).num_targets + packed.share(1, 2).num_targets == 4


@pytest.mark.parametrize("ids", [np.array([0.0, np.nan]), np.array([True]), np.zeros((2, 2), int), np.array(["a"])])
def test_ids_that_are_no_integers_are_refused(ids):
    with pytest.raises(ValueError, match=r"expected integers \[n\]"):
        Tokens(ids)


@pytest.mark.parametrize("learned", [np.ones(3, bool), np.ones(2, int)])
def test_masks_of_another_shape_or_kind_are_refused(learned):
    with pytest.raises(ValueError, match="expected a bool for each id"):
        Tokens(np.arange(2), learned)


def stages(step: int) -> tuple[int, int]:
    """Two lengths, and a batch that grows."""
    return (20 if step < 9 else 50), 60 + 20 * min(step, 5)


@settings(deadline=None)
@given(order=st.lists(st.integers(0, 30), min_size=1, max_size=12))
def test_a_batch_depends_on_seed_and_step_alone(order):
    """A run resumed at any step, or looking ahead and back, gets the batches of one that ran through."""
    fim = FillInMiddle(0.3, 2, 3, 4, bos=0, eos=1)
    documents = [np.array([0, *range(5, length + 5), 1]) for length in LENGTHS]
    through = Batches(documents, 3, stages, fim)
    expected = [through(step) for step in range(31)]
    other = Batches(documents, 3, stages, fim)
    assert all(same(other(step), expected[step]) for step in order)


def test_another_seed_gives_other_batches():
    documents = numbered(LENGTHS)
    assert not same(Batches(documents, 3, stages)(0), Batches(documents, 4, stages)(0))


def test_lists_arrays_and_tokens_are_the_same_documents():
    arrays = numbered(LENGTHS)
    of_lists, of_tokens = ([kind(a) for a in arrays] for kind in (np.ndarray.tolist, Tokens))
    for step in range(12):
        assert same(Batches(arrays, 0, stages)(step), Batches(of_lists, 0, stages)(step))
        assert same(Batches(arrays, 0, stages)(step), Batches(of_tokens, 0, stages)(step))


@pytest.mark.parametrize("seq_len", [5, 20, 200])
@pytest.mark.parametrize("batch_tokens", [1, 100, 5000])
def test_an_epoch_holds_every_token_once(seq_len, batch_tokens):
    batches = Batches(numbered(LENGTHS), 0, always(seq_len, batch_tokens))
    assert batches.num_tokens == len(EVERY_TARGET)
    two = targets_of_an_epoch(batches, 2 * len(EVERY_TARGET))
    first, second = two[: len(EVERY_TARGET)], two[len(EVERY_TARGET) :]
    assert sorted(first) == sorted(second) == EVERY_TARGET
    assert first != second


def test_an_epoch_holds_every_token_once_while_batches_grow():
    batches = Batches(numbered(LENGTHS), 0, lambda step: (20, 40 + 7 * step))
    assert sorted(targets_of_an_epoch(batches, len(EVERY_TARGET))) == EVERY_TARGET


def test_another_length_begins_another_order():
    """After it every token comes once an epoch again; before it the order was left where it was."""
    batches = Batches(numbered(LENGTHS), 0, stages)
    assert max(max(batches(step).lengths) for step in range(9)) == 20
    assert sorted(targets_of_an_epoch(batches, len(EVERY_TARGET), first=9)) == EVERY_TARGET
    assert max(max(batches(step).lengths) for step in range(9, 15)) == 50
    long = Batches(numbered(LENGTHS), 0, always(50, 160))
    assert not same(batches(9), long(0))  # drawn anew


def test_the_order_is_that_of_a_run_of_one_batch_size():
    """Growing batches take the pieces of the same order."""
    grown, even = (Batches(numbered(LENGTHS), 5, size) for size in (lambda step: (20, 40 + 7 * step), always(20, 90)))
    assert targets_of_an_epoch(grown, 900) == targets_of_an_epoch(even, 900)


def test_batches_are_as_full_as_their_pieces_allow():
    documents = numbered([int(n) for n in np.random.default_rng(0).integers(2, 120, 200)])
    batches = Batches(documents, 0, always(20, 100))
    packed = [batches(step) for step in range(300)]
    for one, after in itertools.pairwise(packed):
        assert len(one.tokens) <= 100 < len(one.tokens) + after.lengths[0]


def test_sequences_hold_one_document_each():
    batches = Batches(numbered(LENGTHS), 0, always(20, 100))
    for step in range(40):
        packed = batches(step)
        assert sum(packed.lengths) == len(packed.tokens)
        for tokens, targets in zip(
            packed.tokens.split(packed.lengths), packed.targets.split(packed.lengths), strict=True
        ):
            assert (targets == tokens + 1).all()
            assert len({int(t) // 1000 for t in [*tokens, *targets]}) == 1


def test_a_piece_larger_than_a_batch_is_a_batch():
    batches = Batches(numbered([100]), 0, always(50, 10))
    assert {batches(step).lengths for step in range(10)} == {(50,), (49,)}


def test_pieces_of_which_nothing_is_learned_are_left_out():
    learned = np.zeros(100, bool)
    learned[[45, 60]] = True  # 60 is the last target of the piece from 40 and the first token of the next
    batches = Batches([Tokens(np.arange(100), learned), np.arange(1000, 1030)], 0, always(20, 20))
    seen = [batches(step) for step in range(20)]
    assert all(packed.num_targets for packed in seen)
    assert {min(packed.tokens.tolist()) for packed in seen} == {40, 1000, 1020}
    assert {packed.num_targets for packed in seen} == {2, 20, 9}


def test_a_late_step_is_counted_to_once(monkeypatch):
    """Each step before it is placed once and none is read; a step that is known is found at once."""
    batches, calls = Batches([np.arange(300)] * 400, 0, always(64, 512)), Counter()

    def count(name):
        original = getattr(Batches, name)

        def counting(*given):
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(Batches, name, counting)

    count("_take")
    count("_read")
    late = batches(10_000)
    assert calls == {"_take": 10_001, "_read": len(late.lengths)}
    calls.clear()
    batches(9_000)
    assert calls["_take"] == 1


def test_a_corpus_shorter_than_a_sequence_is_refused():
    with pytest.raises(ValueError, match="has 2 tokens, fewer than one sequence; expected at least seq_len = 128"):
        Batches([[1, 2, 3]], 0, always(128, 1024))
    with pytest.raises(ValueError, match="has 0 tokens"):
        Batches([], 0, always(128, 1024))
    with pytest.raises(ValueError, match="has 0 tokens"):
        Batches([[], [1]], 0, always(1, 1))
    grows = Batches([np.arange(50)], 0, lambda step: (10 if step < 3 else 100, 100))
    grows(2)
    with pytest.raises(ValueError, match="has 49 tokens"):
        grows(3)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (10, -1)])
def test_sizes_of_nothing_are_refused(size):
    with pytest.raises(ValueError, match=f"seq_len = {size[0]}, batch_tokens = {size[1]} of step 0 are not allowed"):
        Batches(numbered(LENGTHS), 0, always(*size))


def test_fixed_batches_hold_every_token_once_in_order():
    batches = fixed_batches(numbered(LENGTHS), 20, 100)
    assert [t for packed in batches for t in packed.targets.tolist()] == EVERY_TARGET
    assert max(len(packed.tokens) for packed in batches) <= 100
    assert max(max(packed.lengths) for packed in batches) == 20
    assert all(len(one.tokens) + after.lengths[0] > 100 for one, after in itertools.pairwise(batches))


@pytest.mark.parametrize("documents", [[], [[1]], [Tokens(np.arange(9), np.zeros(9, bool))]])
def test_fixed_batches_of_nothing_are_refused(documents):
    with pytest.raises(ValueError, match="hold no token to be learned"):
        fixed_batches(documents, 20, 100)


def test_holes_leave_masked_documents_and_every_token_alone():
    """With fill-in-the-middle, an epoch still holds each document's tokens; the masked document is never rearranged."""
    marks = {0, 1, 2, 3, 4}
    plain = [np.array([0, *(100 * number + np.arange(10, 10 + length)), 1]) for number, length in enumerate(LENGTHS)]
    chat = Tokens(np.arange(5000, 5040), np.arange(40) >= 20)
    batches = Batches([*plain, chat], 0, always(20, 80), FillInMiddle(1.0, 2, 3, 4))
    sequences = [
        (tokens.tolist(), targets.tolist())
        for packed in map(batches, range(200))
        for tokens, targets in zip(
            packed.tokens.split(packed.lengths), packed.targets.split(packed.lengths), strict=True
        )
    ]
    chats = [tokens for tokens, _ in sequences if tokens[0] >= 5000]
    assert chats and all(tokens == list(range(tokens[0], tokens[0] + len(tokens))) for tokens in chats)
    held = Counter()
    for tokens, targets in sequences:
        if 2 in tokens:
            assert len(tokens) <= 20 and (tokens[0], tokens[1], targets[-1]) == (0, 2, 1)
            assert tokens.count(3) == tokens.count(4) == 1
            held.update(t for t in tokens if t not in marks)
    long = [t for number, length in enumerate(LENGTHS) if length >= MIN_PIECE for t in plain[number][1:-1].tolist()]
    assert set(held) == set(long)
    assert max(held.values()) - min(held.values()) <= 1
