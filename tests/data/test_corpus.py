"""Corpus: what is read, what is left out, what is held out."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from wavefold.data.corpus import is_held_out, load_corpus


def write_files(folder: Path, num: int = 40) -> Path:
    """Small text files."""
    folder.mkdir()
    for number in range(num):
        (folder / f"file{number}.py").write_text(f"x = {number}\n")
    return folder


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
