"""Pulling a model: from a repository of the Hugging Face hub into a folder of models, whole or not at all.

    DIR/.NAME.pull/         while it is pulled: hidden, private
        .lock               held by the process that pulls
        pulled.json         the commit, the files, their sizes and hashes: written before the first byte is fetched
        FILE.part           a file so far; its length is where the next process goes on
        FILE                a file whose hash is the one that the hub names
    DIR/NAME/               all of them, moved into place at the end

Killed at any point, the same call goes on: it reads pulled.json, so that a branch that moved meanwhile does not mix two
commits, and asks for bytes from the length of FILE.part on. Files come one after another.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from wavefold.atomic import PRIVATE, holding, put_in_place
from wavefold.locate import REPOSITORY
from wavefold.pool.folder import NAME, entries
from wavefold.pool.hub import ConnectionLost, RemoteFile, WrongSize, bytes_of_file, list_files
from wavefold.pool.record import RECORD, Record, load_record
from wavefold.pool.selection import select
from wavefold.system.sizes import gib

REQUEST_BYTES = 16 << 30
"""Of one request, at most: hosts refuse answers above 50 GB, and addresses of large files expire."""
FLUSH_BYTES = 64 << 20
"""Of a file between two flushes: what a power cut can take."""
PIECE_BYTES = 1 << 20
TRIES = 6
"""Connections in a row that bring nothing before a pull gives up."""
FIRST_WAIT_S = 1.0
PRIVATE_FOLDER = 0o700
PART = ".part"
LOCK = ".lock"
UNFINISHED = ".pull"

Told = Callable[[str, int, int], None]
"""Hears the name of a file, and the bytes of all files that are there and that there will be."""


def check_repository(repo: str) -> str:
    """Returns OWNER/NAME of a repository's name or address. Raises ValueError for others."""
    found = REPOSITORY.fullmatch(repo)
    if found is None:
        raise ValueError(f"{repo}: is no repository; expected OWNER/NAME, or its address at huggingface.co")
    return found[1]


def check_name(name: str) -> str:
    """Returns a name that a folder can offer. Raises ValueError for others."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a model; expected letters, digits, '.', '_' and '-', at most 96, the first a "
            "letter or a digit: give one by --as"
        )
    return name


def staging_of(folder: Path, name: str) -> Path:
    """Where a model is while it is pulled."""
    return folder / f".{name}{UNFINISHED}"


def pull(
    repo: str, folder: Path, name: str | None = None, revision: str = "main", include: Sequence[str] = (),
    told: Told = lambda name, done, of: None, say: Callable[[str], None] = lambda text: None,
) -> Path:  # fmt: skip
    """Returns the model's folder below `folder`, which holds the files of one commit, each with the hash that the hub
    names. Nothing is fetched where it is there already.

    Raises ValueError, with advice: the hub does not answer, a file is not what the hub says, no room, a name in use.
    What is there by then stays for the next call, but a file that is wrong.
    """
    repo = check_repository(repo)
    name = check_name(repo.rpartition("/")[2] if name is None else name)
    asked = (repo, revision, tuple(include))
    place, staging = folder / name, staging_of(folder, name)
    if there := _pulled(folder, name, asked):
        say(f"{place} is there already, of commit {there.commit[:12]}; `wavefold rm {name}` first to pull it anew")
        return place
    record = _unfinished(staging, asked) or _begin(asked, say)
    staging.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    with holding(staging / LOCK):
        if _pulled(folder, name, asked):  # another process was quicker
            shutil.rmtree(staging)
            return place
        earlier = _unfinished(staging, asked)
        if earlier is None:
            record.save(staging)
        else:
            record = earlier
            say(f"{record.origin}: goes on with what was pulled since {record.time}")
        _check_room(staging, record)
        _Files(staging, record, told).fetch()
        _check_free(folder, name)
        put_in_place(staging, place)
    return place


def _pulled(folder: Path, name: str, asked: tuple[str, str, tuple[str, ...]]) -> Record | None:
    """Returns the record of what is asked for if it is in its place. Raises ValueError if something else is."""
    place = folder / name
    record = load_record(place) if place.is_dir() else None
    if record is not None and asked in (
        (record.repo, record.revision, record.include), (record.repo, record.commit, record.include),
    ):  # fmt: skip
        return record
    _check_free(folder, name)
    return None


def _check_free(folder: Path, name: str) -> None:
    place = folder / name
    if os.path.lexists(place) or (folder.is_dir() and name in entries(folder)):
        raise ValueError(f"{place}: the name is in use; give another one by --as, or `wavefold rm {name}` first")


def _begin(asked: tuple[str, str, tuple[str, ...]], say: Callable[[str], None]) -> Record:
    """What is to be pulled: asks the hub."""
    repo, revision, include = asked
    try:
        commit, files = list_files(repo, revision)
    except ConnectionLost as error:
        raise ValueError(f"{repo}: the hub cannot be reached ({error}); check the network and HF_ENDPOINT") from None
    selection = select(repo, files, include)
    if selection.left:
        names = ", ".join(file.path for file in selection.left[:8])
        more = f" and {len(selection.left) - 8} more" if len(selection.left) > 8 else ""
        say(f"{repo}: {len(selection.left)} files are not pulled: {names}{more}")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Record(repo, revision, commit, include, now, selection.files)


def _unfinished(staging: Path, asked: tuple[str, str, tuple[str, ...]]) -> Record | None:
    """What an earlier call began. Raises ValueError if that is something else than what is asked for."""
    record = load_record(staging)
    if record is not None and asked != (record.repo, record.revision, record.include):
        words = " ".join(
            [record.repo, "--revision", record.revision, *(f"--include {one!r}" for one in record.include)]
        )
        name = staging.name[1:].removesuffix(UNFINISHED)
        raise ValueError(
            f"{staging}: holds an unfinished pull of something else ({words}); finish that one, remove it by "
            f"`wavefold rm {name}`, or give another name by --as"
        )
    return record


def _check_room(staging: Path, record: Record) -> None:
    """Raises ValueError where what is missing does not fit on the disk."""
    there = sum(_size(staging, name) for name in record.files)
    needed, free = record.num_bytes - there, shutil.disk_usage(staging).free
    if needed > free:
        raise ValueError(
            f"{staging.parent}: {record.repo} needs {gib(needed)} more, {gib(free)} are free; make room (`wavefold "
            "rm`), or give a folder of another disk by --models"
        )


def _size(staging: Path, name: str) -> int:
    for path in (staging / name, staging / (name + PART)):
        if path.is_file():
            return path.stat().st_size
    return 0


class _Files:
    """The files of a record, as they come. `done` counts bytes that are there."""

    def __init__(self, staging: Path, record: Record, told: Told) -> None:
        self.staging, self.record, self.told = staging, record, told
        self.done = 0

    def fetch(self) -> None:
        """Leaves nothing but the record's files, all verified."""
        for name, file in self.record.files.items():
            path = self.staging / name
            if path.is_file() and path.stat().st_size == file.num_bytes:  # verified: otherwise it would be a part
                self._add(name, file.num_bytes)
            else:
                self._fetch_one(path, file)
        for path in self.staging.iterdir():
            if path.name not in self.record.files and path.name != RECORD:
                path.unlink()

    def _add(self, name: str, num_bytes: int) -> None:
        self.done += num_bytes
        self.told(name, self.done, self.record.num_bytes)

    def _fetch_one(self, path: Path, file: RemoteFile) -> None:
        """Gives a file its name once its hash is what the hub names. Otherwise removes it and raises ValueError."""
        part = path.with_name(path.name + PART)
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, PRIVATE)
        try:
            digest = _Fetch(handle, file, lambda num_bytes: self._add(path.name, num_bytes)).run(self.record)
            os.fsync(handle)
        except WrongSize as error:
            part.unlink()
            raise ValueError(
                f"{file.path}: is truncated or another file at its host, which {error}; the hub names "
                f"{file.num_bytes:,}. It was removed; pull again later, or tell the owner of the repository"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"{path}: {os.strerror(error.errno)}; make room (`wavefold rm`), then the same command goes on"
            ) from None
        finally:
            os.close(handle)
        if digest != file.digest:
            part.unlink()
            raise ValueError(
                f"{file.path}: is not the file that the hub names: its {file.hash_name} is {digest}, expected "
                f"{file.digest}. It was removed; the same command fetches this file again, and no other"
            )
        os.replace(part, path)


class _Fetch:
    """One file that grows in an open file. `add` hears of bytes that are there, and of those that are no more."""

    def __init__(self, handle: int, file: RemoteFile, add: Callable[[int], None]) -> None:
        self.handle, self.file, self.add = handle, file, add
        self.at, self.flushed, self.hasher = 0, 0, file.hasher()

    def run(self, record: Record) -> str:
        """Fetches what is missing. Returns the hash of the whole in hex. Raises WrongSize; ValueError, with advice."""
        self._read_again()
        waits = 0
        while self.at < self.file.num_bytes:
            before = self.at
            try:
                end = min(self.at + REQUEST_BYTES, self.file.num_bytes)
                with bytes_of_file(record.repo, record.commit, self.file, self.at, end) as (first, pieces):
                    if first != self.at:
                        self._forget()
                    for piece in pieces:
                        self._take(piece)
                if self.at == before:
                    raise ConnectionLost("nothing came")
            except ConnectionLost as error:
                waits = 0 if self.at > before else waits + 1
                if waits == TRIES:
                    raise ValueError(
                        f"{self.file.path}: the connection fails ({error}) at byte {self.at:,} of "
                        f"{self.file.num_bytes:,}; the same command goes on from there"
                    ) from None
                time.sleep(FIRST_WAIT_S * 2**waits)
        return self.hasher.hexdigest()

    def _read_again(self) -> None:
        """Hash what an earlier process fetched."""
        while piece := os.pread(self.handle, PIECE_BYTES, self.at):
            self._count(piece)
        if self.at > self.file.num_bytes:
            self._forget()
        self.flushed = self.at

    def _take(self, piece: bytes) -> None:
        if self.at + len(piece) > self.file.num_bytes:
            raise WrongSize("sends more bytes")
        written = 0
        while written < len(piece):
            written += os.write(self.handle, piece[written:])
        self._count(piece)
        if self.at - self.flushed >= FLUSH_BYTES:
            os.fdatasync(self.handle)
            self.flushed = self.at

    def _count(self, piece: bytes) -> None:
        self.hasher.update(piece)
        self.at += len(piece)
        self.add(len(piece))

    def _forget(self) -> None:
        """Begin anew."""
        os.ftruncate(self.handle, 0)
        self.add(-self.at)
        self.at, self.flushed, self.hasher = 0, 0, self.file.hasher()
