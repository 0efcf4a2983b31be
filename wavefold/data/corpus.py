"""Corpora of text. A source is one of:

    stdlib                           the Python standard library, by a list of files that ships with the package
    packages                         packages from the index, by a list that ships; `wavefold data fetch` brings them
    stdlib+packages                  both
    FOLDER                           the files in it, without hidden ones
    LIST.txt                         the files and folders that it names, one a line
    CHATS.jsonl                      chats, one a line (chat_data.py)
    specialist:NAME                  generated questions with answers (specialists/): cron, dates or units
    datasets:NAME[:SPLIT[:COLUMN]]   Hugging Face's dataset of that name, or the folder of one that was saved

A document is one file, one chat, or one row. Whole documents are held out, never lines; of packages, whole ones. The
shipped lists (`corpora/stdlib.json`, `corpora/packages.json`) have the SHA-256 of each file and archive, so a run
elsewhere reads the same bytes or names the files that differ.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold.data.chat_data import Chat, chat_text, checked_chat, read_chats
from wavefold.data.one_in import one_in
from wavefold.data.packages import documents as package_documents
from wavefold.data.packages.listing import read_listing
from wavefold.data.specialists import HELD_OUT_CASES, PREFIX, TRAINING_CASES, specialist
from wavefold.system.folders import cache_folder

STDLIB_LIST = Path(__file__).parent / "corpora" / "stdlib.json"
HELD_OUT_ONE_IN = 20
"""One document in this many is held out, by a hash of its name."""
LEFT_OUT = "binary or hidden ones left out"
BEGINNING = 1 << 16
"""Number of bytes by which most binary files are told before the rest is read."""
EXPECTED = (
    "'stdlib', an existing folder, a .txt list of files, a .jsonl of chats, datasets:NAME[:SPLIT[:COLUMN]], "
    "'packages', 'stdlib+packages' or specialist:NAME"
)


@dataclass(frozen=True)
class Document:
    """Text of one file. `name`: path inside the corpus. A chat also has `messages`; its text has no roles."""

    name: str
    text: str
    messages: Chat = ()


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and held-out documents that are only evaluated."""

    name: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def load_corpus(source: str) -> Corpus:
    """Returns the documents of a source (see above), in memory. Folders are searched recursively for UTF-8 files.

    Raises ValueError if there is nothing to read, if a part cannot be read, or if the standard library differs from the
    list.
    """
    if source in LISTED:
        parts = [read() for read in LISTED[source]]
        return Corpus(source, sum((p.train for p in parts), ()), sum((p.held_out for p in parts), ()))
    if source.startswith("datasets:"):
        return _dataset(source)
    if source.startswith(PREFIX):
        return _specialist(source)
    path = Path(source)
    if path.is_dir():
        documents, left_out = _folder(path, path)
        return _split(path.name, documents, f"{path}: holds {len(documents)} text files ({left_out} {LEFT_OUT})")
    if path.is_file() and path.suffix == ".txt":
        return _listed(path)
    if path.is_file() and path.suffix == ".jsonl":
        chats = [Document(name, chat_text(chat), chat) for name, chat in read_chats(path)]
        return _split(path.stem, chats, f"{path}: holds {len(chats)} chats")
    raise ValueError(f"data = {source!r} is not allowed; expected {EXPECTED}")


def is_held_out(name: str) -> bool:
    """True if the document of this name is held out: a fixed one in twenty."""
    return one_in(name, HELD_OUT_ONE_IN)


def which_held_out(names: Sequence[str], holds: str) -> list[bool]:
    """Returns True for documents that are held out: the fixed share, but at least one and never all.

    Raises ValueError, which begins with `holds`, for fewer than two documents.
    """
    if len(names) < 2:
        raise ValueError(f"{holds}; expected at least 2, one to train on and one to hold out")
    flags = [is_held_out(name) for name in names]
    return flags if any(flags) and not all(flags) else [False] * (len(names) - 1) + [True]


def _stdlib() -> Corpus:
    listed: dict[str, str] = json.loads(STDLIB_LIST.read_text())["files"]
    root = Path(sysconfig.get_paths()["stdlib"])
    documents, different = [], []
    for name, digest in listed.items():
        try:
            data = (root / name).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != digest:
            different.append(name)
        documents.append(Document(name, data.decode("utf-8", errors="replace")))
    if different:
        raise ValueError(
            f"{len(different)} of {len(listed)} files under {root} are not the listed ones ({different[0]} first): the "
            f"list is of another Python release; use that one, or train on a folder: --data {root}"
        )
    return _split("stdlib", documents, f"{STDLIB_LIST}: names {len(documents)} files")


def packages_file() -> Path:
    """Where the documents of the listed packages are kept."""
    return cache_folder() / "corpora" / "packages.jsonl"


def _packages() -> Corpus:
    parts = package_documents.read(read_listing(), packages_file())
    train, held_out = (tuple(Document(name, text) for name, text in part) for part in parts)
    return Corpus("packages", train, held_out)


def folders_of(source: str) -> list[Path]:
    """Returns the folders that are read as the corpus `source`: itself, or those that a list names."""
    path = Path(source)
    if path.suffix == ".txt" and path.is_file():
        return [place for _, _, place in _lines(path) if place.is_dir()]
    return [path] if path.is_dir() else []


def _lines(path: Path) -> list[tuple[int, str, Path]]:
    """Returns (number, text, place) of the lines of a list. Blank lines and # comments are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8; expected a file or folder a line") from None
    numbered = enumerate(map(str.strip, lines), 1)
    return [(number, line, path.parent / line) for number, line in numbered if line and not line.startswith("#")]


def _listed(path: Path) -> Corpus:
    """Reads the paths in a list, relative to it. No file is read twice."""
    found: dict[Path, Document] = {}
    num_left_out = 0
    for number, line, place in _lines(path):
        if place.is_dir():
            documents, left_out = _folder(place, path.parent)
            num_left_out += left_out
        else:
            document = _file(place, path.parent) if place.is_file() else None
            if document is None:
                raise ValueError(
                    f"{path}:{number}: {line!r} is not allowed; expected a UTF-8 file or a folder "
                    "(a .txt is a list of those, one a line; to train on texts give their folder)"
                )
            documents = [document]
        for document in documents:
            found.setdefault((path.parent / document.name).resolve(), document)
    documents = [document for document in found.values() if document.text]
    return _split(path.stem, documents, f"{path}: names {len(documents)} text files ({num_left_out} {LEFT_OUT})")


def _folder(folder: Path, root: Path) -> tuple[list[Document], int]:
    """Returns the text files of a folder, named relative to `root`, and the number of files left out.

    Those are binary files, and files with a name or folder that begins with a dot: version control, environments, keys.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    read = [None if _is_hidden(path.relative_to(folder)) else _file(path, root) for path in paths]
    return [document for document in read if document is not None and document.text], read.count(None)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _file(path: Path, root: Path) -> Document | None:
    """Returns a text file as a document, or None for a binary file. A binary beginning is enough."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            text = decoder.decode(file.read(BEGINNING))
            if "\0" not in text:
                text += decoder.decode(file.read(), final=True)
    except UnicodeDecodeError:
        return None
    name = Path(os.path.relpath(path, root)).as_posix()
    return None if "\0" in text else Document(name, text)


def _dataset(source: str) -> Corpus:
    """Returns the rows of a dataset. A column named "messages" holds chats."""
    name, split, column = (*source.removeprefix("datasets:").split(":"), "", "")[:3]
    if not name or source.count(":") > 3:
        raise ValueError(f"data = {source!r} is not allowed; expected datasets:NAME[:SPLIT[:COLUMN]]")
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"data = {source!r} needs datasets; install it with: pip install 'wavefold[datasets]'"
        ) from None
    try:
        if name.startswith(("/", ".", "~")):
            rows: Any = datasets.load_from_disk(os.path.expanduser(name))
            if isinstance(rows, dict):  # splits by name
                if (split or "train") not in rows:
                    raise ValueError(f"split {split or 'train'!r} is not there; expected one of {', '.join(rows)}")
                rows = rows[split or "train"]
            elif split:
                raise ValueError(f"it has no splits, so {split!r} is not allowed; expected datasets:PATH::COLUMN")
        else:
            rows = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise ValueError(f"data = {source!r} cannot be read: {error}") from None
    columns = list(rows.column_names)
    column = column or next((known for known in ("text", "messages") if known in columns), "")
    if column not in columns:
        raise ValueError(
            f"data = {source!r}: column {column or 'text'!r} is not there; expected one of {', '.join(columns)}: "
            "datasets:NAME:SPLIT:COLUMN"
        )
    documents = list(_rows(rows[column], column, source))
    return _split(Path(name).name, documents, f"{source}: holds {len(documents)} documents")


def _specialist(source: str) -> Corpus:
    """Returns chats of a specialist. What is held out are its held-out cases, by template and by value."""
    one = specialist(source.removeprefix(PREFIX))
    parts = one.cases(0, TRAINING_CASES, held_out=False), one.cases(0, HELD_OUT_CASES, held_out=True)
    train, held_out = (
        tuple(Document(f"{one.name} {number}", chat_text(case.chat), case.chat) for number, case in enumerate(part))
        for part in parts
    )
    return Corpus(source, train, held_out)


def _rows(values: Any, column: str, source: str) -> Iterator[Document]:
    for number, value in enumerate(values):
        where = f"{source}, row {number}"
        if column == "messages":
            chat = checked_chat(value, where)
            yield Document(f"{number}", chat_text(chat), chat)
        elif not isinstance(value, str):
            raise ValueError(f"{where}: {column} = {type(value).__name__} is not allowed; expected text")
        elif value:
            yield Document(f"{number}", value)


def _split(name: str, documents: list[Document], holds: str) -> Corpus:
    flags = which_held_out([d.name for d in documents], holds)
    held_out = [d for d, is_held in zip(documents, flags, strict=True) if is_held]
    names = {d.name for d in held_out}
    return Corpus(name, tuple(d for d in documents if d.name not in names), tuple(held_out))


LISTED = {"stdlib": (_stdlib,), "packages": (_packages,), "stdlib+packages": (_stdlib, _packages)}
"""Corpora of the shipped lists, by the name of a source."""
