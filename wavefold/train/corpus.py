"""Text to train on: a folder of files, or the Python standard library by a list of files that ships with the package.

A document is one file. What is held out is held out by file, never by line. The shipped list (`corpora/stdlib.json`)
names each file with its SHA-256, so that a run elsewhere reads the very same bytes or is told which differ.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

STDLIB_LIST = Path(__file__).parent / "corpora" / "stdlib.json"
HELD_OUT_ONE_IN = 20
"""Share of files held out, decided by a hash of a file's name."""


@dataclass(frozen=True)
class Document:
    """One file's text; `name` is its path inside the corpus."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents to learn from, and documents that are only ever evaluated."""

    name: str
    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def load_corpus(source: str) -> Corpus:
    """ "stdlib", or the path of a folder whose UTF-8 files (found recursively) are the documents.

    Raises ValueError when there is nothing to read, or when the standard library here is not the listed one.
    """
    return _stdlib() if source == "stdlib" else _folder(Path(source))


def is_held_out(name: str) -> bool:
    """Whether the file of this name is held out: a fixed one in twenty."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def list_stdlib() -> dict[str, object]:
    """The content of the shipped list, made from this interpreter's standard library.

    Left out: tests, and generated tables (charmaps, Unicode mappings, pydoc's topics), which are no code to learn.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "__pycache__", "pydoc_data", "__phello__"}
    files = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if left_out & set(name.split("/")) or name.startswith(("_sysconfigdata", "config-")):
            continue
        if name.startswith("encodings/") and "decoding_table" in path.read_text(encoding="utf-8"):
            continue
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"python": sysconfig.get_python_version(), "files": files}


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
    return _split("stdlib", documents)


def _folder(folder: Path) -> Corpus:
    if not folder.is_dir():
        raise ValueError(f"data = {str(folder)!r} is not allowed; expected 'stdlib' or an existing folder")
    documents, binary = [], 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            binary += 1
            continue
        if "\0" in text:
            binary += 1
        elif text:
            documents.append(Document(path.relative_to(folder).as_posix(), text))
    if len(documents) < 2:
        raise ValueError(
            f"{folder}: holds {len(documents)} text files ({binary} binary ones were left out); "
            "expected at least 2, one to train on and one to hold out"
        )
    return _split(folder.name, documents)


def _split(name: str, documents: list[Document]) -> Corpus:
    held_out = [d for d in documents if is_held_out(d.name)] or documents[-1:]
    names = {d.name for d in held_out}
    return Corpus(name, tuple(d for d in documents if d.name not in names), tuple(held_out))
