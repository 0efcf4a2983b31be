"""Documents as token ids on disk, memory-mapped: for corpora that are tokenised once, or larger than RAM.

    FOLDER/tokens-00001.bin    ids one after another, little-endian, uint16 where the vocabulary fits, else uint32
           learned-00001.bin   a byte for each of those ids, 1 if it is learned; only for documents with marks
           lengths.bin         tokens of each document, int64; the documents fill the shards in order
           masked.bin          a byte for each document, 1 if learned-*.bin applies to it
           index.json          vocabulary, fingerprint of the tokenizer if the writer passed one, counts (with the
                               number of held-out documents, which come last, if the writer named them), and bytes
                               and SHA-256 of each file

The folder is written beside its place and then moved there whole. Only its owner can read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wavefold.atomic import write_folder, write_json
from wavefold.data.batches import Documents, Tokens
from wavefold.data.corpus import which_held_out
from wavefold.data.file_hash import file_hash

INDEX_NAME = "index.json"
FORMAT = "wavefold token shards"
SHARD_BYTES = 1 << 28
"""Bytes of ids in a file. A document is never split, so a file may be larger."""
BLOCK = 1 << 20
SAMPLES = 64
"""Blocks of a file that are hashed to detect a change. Files up to 64 MiB are hashed whole."""


def write_shards(
    folder: Path,
    documents: Iterable[Tokens],
    vocab_size: int,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: str | None = None,
    held_out: Iterable[Tokens] = (),
) -> None:
    """Writes `documents`, one at a time, to `folder`. The folder may be new, empty, or shards, which are replaced.

    `tokenizer`: `Tokenizer.fingerprint` of the tokenizer that made the ids. The index keeps it, and a run compares it
    with the tokenizer of its model. Without it a run can compare only `vocab_size`. `held_out`: documents that a run
    evaluates and never learns. Without them a run holds out a fixed share.

    Raises ValueError for ids outside of the vocabulary, an empty document, no documents, and a folder with other
    content. The folder then stays as it was.
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(f"vocab_size = {vocab_size} is not allowed; expected 1 to 2^32")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder; give another name")
    if folder.is_dir() and any(folder.iterdir()) and not is_shards(folder):
        raise ValueError(f"{folder}: holds no token shards, so it is not replaced; give another name")
    write_folder(folder, lambda fresh: _fill(fresh, documents, held_out, vocab_size, shard_bytes, tokenizer))


def is_shards(folder: Path) -> bool:
    """True if the index of the folder says that it holds token shards."""
    try:
        return json.loads((folder / INDEX_NAME).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class TokenShards(Documents):
    """The documents of a folder that `write_shards` wrote. An item is read when it is accessed.

    Ids of an item are views of the mapped files: do not write into them. Opening compares the size of every file with
    the index. Reading an item compares its ids with the vocabulary. `check` compares everything. All raise ValueError
    for damaged files.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = _index(folder)
        self.vocab_size: int = index["vocab_size"]
        self.tokenizer: str | None = index.get("tokenizer")
        self.num_held_out: int = index.get("held_out", 0)
        self._files: dict[str, dict[str, Any]] = index["files"]
        for name, record in self._files.items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else -1
            if size != record["bytes"]:
                found = "is missing" if size < 0 else f"has {size} bytes"
                raise _damaged(folder / name, f"{found}; the index says {record['bytes']}")
        self.lengths = np.fromfile(folder / "lengths.bin", "<i8").astype(np.int64)
        self.masked = np.fromfile(folder / "masked.bin", np.uint8).astype(bool)
        dtype = np.dtype(index["dtype"])
        self._tokens: list[np.ndarray] = []
        for name, record in self._files.items():
            if name.startswith("tokens-"):
                if not record["bytes"] or record["bytes"] % dtype.itemsize:
                    raise _damaged(folder / name, f"has {record['bytes']} bytes, not whole ids of {dtype.itemsize}")
                self._tokens.append(np.memmap(folder / name, dtype, "r").view(np.ndarray))
        self._learned: list[np.ndarray | None] = []
        for number, part in enumerate(self._tokens, 1):
            name = f"learned-{number:05d}.bin"
            learned = np.memmap(folder / name, np.uint8, "r").view(np.ndarray) if name in self._files else None
            if learned is not None and len(learned) != len(part):
                raise _damaged(folder / name, f"has {len(learned)} entries for {len(part)} tokens")
            self._learned.append(learned)
        self._shards, self._firsts = self._places(index["documents"])

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all documents."""
        return int(self.lengths.sum())

    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]
        """Returns document `number`. Raises ValueError for ids outside of the vocabulary."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number} of {len(self)}")
        shard, first = int(self._shards[number]), int(self._firsts[number])
        stop = first + int(self.lengths[number])
        ids = self._tokens[shard][first:stop]
        if int(ids.max()) >= self.vocab_size:
            path = self.folder / f"tokens-{shard + 1:05d}.bin"
            raise _damaged(path, f"document {number} holds id {int(ids.max())} of a vocabulary of {self.vocab_size}")
        if not self.masked[number]:
            return Tokens(ids)
        learned = self._learned[shard]
        assert learned is not None
        return Tokens(ids, learned[first:stop].astype(bool))

    def sampled_sha256(self) -> str:
        """Returns a hash of the files as they are now: small files whole, large files as `SAMPLES` blocks."""
        digest = hashlib.sha256((self.folder / INDEX_NAME).read_bytes())
        for name in self._files:
            size = (self.folder / name).stat().st_size
            with (self.folder / name).open("rb") as file:
                step = max(BLOCK, size // SAMPLES)
                for begin in range(0, size, step):
                    file.seek(begin)
                    digest.update(file.read(min(step, BLOCK)))
        return digest.hexdigest()

    def check(self) -> None:
        """Reads all files. Raises ValueError if one has changed since it was written."""
        for name, record in self._files.items():
            if file_hash(self.folder / name) != record["sha256"]:
                raise _damaged(self.folder / name, "is not what was written (its SHA-256 differs)")

    def _places(self, num_documents: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the file and the first token of each document. Raises ValueError if lengths do not fill the files."""
        lengths, sizes = self.lengths, [len(part) for part in self._tokens]
        ends = np.cumsum(lengths)
        bounds = np.cumsum(sizes)
        fits = len(lengths) == len(self.masked) == num_documents > 0 and lengths.min() > 0
        if not fits or lengths.max() > sum(sizes) or ends[-1] != sum(sizes) or not np.isin(bounds, ends).all():
            raise _damaged(self.folder / "lengths.bin", f"does not fit the {sum(sizes)} tokens of the other files")
        shards = np.searchsorted(bounds, ends, side="left")
        if any(self._learned[shard] is None for shard in np.unique(shards[self.masked])):
            raise _damaged(self.folder / "masked.bin", "names documents of a shard without learned-*.bin")
        return shards, ends - lengths - np.concatenate(([0], bounds))[shards]


class Chosen(Documents):
    """A subset of other documents, by `numbers`."""

    def __init__(self, documents: Documents, numbers: np.ndarray):
        self._documents, self._numbers = documents, numbers
        self.lengths, self.masked = documents.lengths[numbers], documents.masked[numbers]

    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]
        return self._documents[int(self._numbers[number])]


def split_shards(shards: TokenShards) -> tuple[Documents, Documents]:
    """Returns the documents to learn from and the held-out ones: those that the writer named.

    If the writer named none, a fixed one in twenty is held out, by a hash of its number. Raises ValueError for fewer
    than two documents.
    """
    if shards.num_held_out:
        numbers = np.arange(len(shards))
        return Chosen(shards, numbers[: -shards.num_held_out]), Chosen(shards, numbers[-shards.num_held_out :])
    names = [str(number) for number in range(len(shards))]
    held_out = np.array(which_held_out(names, f"{shards.folder}: holds {len(shards)} document"))
    return Chosen(shards, np.flatnonzero(~held_out)), Chosen(shards, np.flatnonzero(held_out))


def _fill(
    folder: Path,
    documents: Iterable[Tokens],
    held_out: Iterable[Tokens],
    vocab_size: int,
    shard_bytes: int,
    tokenizer: str | None,
) -> None:
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    room = max(1, shard_bytes // dtype.itemsize)
    lengths: list[int] = []
    masked: list[bool] = []
    num_train = 0
    with contextlib.ExitStack() as files:
        shard: _Shard | None = None
        for document, learns in itertools.chain(((d, 1) for d in documents), ((d, 0) for d in held_out)):
            num_train += learns
            ids = _checked(document.ids, len(lengths), vocab_size).astype(dtype)
            if shard is None or shard.num_tokens + len(ids) > room:
                files.close()
                shard = _Shard(folder, shard.number + 1 if shard else 1, files)
            shard.add(ids, document.learned)
            lengths.append(len(ids))
            masked.append(document.learned is not None)
    if not num_train:
        raise ValueError("no documents to write as token shards; expected at least one")
    np.array(lengths, "<i8").tofile(folder / "lengths.bin")
    np.array(masked, np.uint8).tofile(folder / "masked.bin")
    sums = {file.name: {"bytes": file.stat().st_size, "sha256": file_hash(file)} for file in sorted(folder.iterdir())}
    record = {"format": FORMAT, "vocab_size": vocab_size, "dtype": dtype.str, "documents": len(lengths),
             "tokens": sum(lengths), "files": sums}  # fmt: skip
    if tokenizer is not None:
        record["tokenizer"] = tokenizer
    if num_train < len(lengths):
        record["held_out"] = len(lengths) - num_train
    write_json(folder / INDEX_NAME, record)


class _Shard:
    """One growing file of ids. A file of `learned` bytes joins it at the first document that has marks."""

    def __init__(self, folder: Path, number: int, files: contextlib.ExitStack):
        """`files` closes the files of this shard."""
        self.number, self._folder, self._files = number, folder, files
        self._tokens = files.enter_context((folder / f"tokens-{number:05d}.bin").open("wb"))
        self._learned: BinaryIO | None = None
        self.num_tokens = 0

    def add(self, ids: np.ndarray, learned: np.ndarray | None) -> None:
        """Appends a document."""
        if learned is not None and self._learned is None:
            path = self._folder / f"learned-{self.number:05d}.bin"
            self._learned = self._files.enter_context(path.open("wb"))
            for first in range(0, self.num_tokens, BLOCK):
                self._learned.write(b"\1" * min(BLOCK, self.num_tokens - first))
        self._tokens.write(ids.tobytes())
        if self._learned is not None:
            self._learned.write((np.ones(len(ids), bool) if learned is None else learned).tobytes())
        self.num_tokens += len(ids)


def _checked(ids: np.ndarray, number: int, vocab_size: int) -> np.ndarray:
    if not len(ids):
        raise ValueError(f"document {number} has no tokens; expected one at least")
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        raise ValueError(
            f"document {number}, token {wrong[0]}: id {ids[wrong[0]]} is not allowed; expected 0 to {vocab_size - 1}"
        )
    return ids


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ValueError(f"{folder}: holds no {INDEX_NAME}; expected a folder of token shards")
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        record = (index["format"], index["dtype"], type(index["vocab_size"]), type(index["documents"]))
        names = sorted(index["files"])
        sizes = {type(file["bytes"]) for file in index["files"].values()}
        sums = {type(file["sha256"]) for file in index["files"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__}: {error})") from None
    num_shards = sum(name.startswith("tokens-") for name in names)
    expected = {f"tokens-{number:05d}.bin" for number in range(1, num_shards + 1)} | {"lengths.bin", "masked.bin"}
    allowed = expected | {f"learned-{number:05d}.bin" for number in range(1, num_shards + 1)}
    fits = expected <= set(names) <= allowed and num_shards and sizes == {int} and sums == {str}
    fits = fits and isinstance(index.get("tokenizer"), str | None) and record[2:] == (int, int)
    if fits and "held_out" in index:
        fits = type(index["held_out"]) is int and 0 < index["held_out"] < index["documents"]
    if record[0] != FORMAT or record[1] not in ("<u2", "<u4") or not fits:
        raise _damaged(path, "is not an index of token shards")
    index["files"] = {name: index["files"][name] for name in names}
    return index


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(f"{path}: {fault}; the shards are damaged, write them anew")
