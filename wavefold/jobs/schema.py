"""The database of a queue: SQLite in WAL mode, readable by its owner alone, checked before it is used.

    DIR/queue.db          batches, groups (a batch's lines of one model), lines, results
    DIR/files/            uploaded files
    DIR/worker.lock       held by the process that works; writers of a moment need none
    DIR/worker.json       what that process says of itself (board.py)

Every change is one transaction, on the disk when it returns (`synchronous=FULL`: the log is flushed at each commit, so
that a result which was reported survives a power cut too). Readers never wait. Writers wait for each other, `BUSY_S` at
most. SQL of the database itself (triggers, views) is not trusted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from wavefold.atomic import PRIVATE

NAME = "queue.db"
APPLICATION, VERSION = 0x57664A62, 1
"""`PRAGMA application_id` ("WfJb") and `user_version`."""
BUSY_S = 60.0
MOST_LOG = 64 * 2**20
"""Bytes that the write-ahead log keeps on the disk when it is empty."""

WAITING, BEGUN, ENDED = 0, 1, 2
"""States of a line."""

_making = threading.Lock()
"""Held while a queue's file is looked for and made."""

SCHEMA = """
CREATE TABLE files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created REAL NOT NULL,
    batch INTEGER REFERENCES batches ON DELETE CASCADE, failed INTEGER
);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, input_file TEXT NOT NULL,
    endpoint TEXT NOT NULL, model TEXT, priority INTEGER NOT NULL, quiet TEXT, metadata TEXT, state TEXT NOT NULL,
    created REAL NOT NULL, began REAL, ended REAL, swaps INTEGER NOT NULL DEFAULT 0, errors TEXT,
    output_file TEXT, error_file TEXT
);
CREATE INDEX batches_by_state ON batches (state);
CREATE TABLE groups (
    number INTEGER PRIMARY KEY, batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE, model TEXT NOT NULL,
    total INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0, output_bytes INTEGER NOT NULL DEFAULT 0,
    error_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (batch, model)
);
CREATE TABLE lines (
    number INTEGER PRIMARY KEY, batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE, place INTEGER NOT NULL,
    groups INTEGER NOT NULL REFERENCES groups ON DELETE CASCADE, custom_id TEXT NOT NULL, path TEXT NOT NULL,
    body TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    UNIQUE (batch, place), UNIQUE (batch, custom_id)
);
CREATE INDEX lines_waiting ON lines (groups, attempts, place) WHERE state = 0;
CREATE INDEX lines_begun ON lines (number) WHERE state = 1;
CREATE INDEX lines_of_groups ON lines (groups);
CREATE TABLE results (
    number INTEGER PRIMARY KEY AUTOINCREMENT, line INTEGER NOT NULL UNIQUE REFERENCES lines ON DELETE CASCADE,
    status INTEGER NOT NULL, text TEXT NOT NULL, ended REAL NOT NULL
);
CREATE TABLE worker (key TEXT PRIMARY KEY, value TEXT);
CREATE INDEX files_by_batch ON files (batch);
"""

FOR_NOW = {
    5: "another process writes to it",
    6: "another process writes to it",
    8: "it cannot be written to",
    10: "the disk cannot be read or written",
    13: "the disk is full",
    14: "a file of it cannot be opened",
}
"""SQLite's codes for what may pass: BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN."""
INTERRUPTED = 9
MESSAGES = {"locked": 5, "readonly": 8, "interrupted": 9, "disk i/o": 10, "is full": 13, "unable to open": 14}
"""Python 3.10 has no codes, only SQLite's messages."""


class Damaged(ValueError):
    """The database is not one that can be used. The message says what to do."""


class NoQueue(ValueError):
    """There is no queue in a folder, or not any more the one that was opened."""


class NotNow(OSError):
    """The database cannot be written to or read for now: a full disk, most of all. Nothing of the change was kept."""


def open_database(folder: Path, create: bool) -> sqlite3.Connection:
    """Returns a connection that any thread may use, one at a time. `create`: make what is missing.

    Raises NoQueue where there is none, `Damaged`, and `NotNow`.
    """
    path = folder / NAME
    with told(folder):
        with _making:
            if create:
                _make(folder)
            elif not path.is_file():
                raise NoQueue(f"{folder}: holds no queue; expected a folder that `wavefold jobs add` has filled")
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _set_up(connection)
            _check_kind(connection, folder)
        except BaseException:
            connection.close()
            raise
    return connection


def place_of(folder: Path) -> tuple[int, int] | None:
    """Returns the numbers of the database's file; None where there is none."""
    try:
        found = os.stat(folder / NAME)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def check_place(folder: Path, place: tuple[int, int] | None) -> None:
    """Raises NoQueue where the database's file is another one than that of these numbers, or none."""
    if place_of(folder) != place:
        raise NoQueue(
            f"{folder}: the queue was removed or replaced while this process worked on it; start the server again, and "
            "remove a queue when its server has ended"
        )


def _make(folder: Path) -> None:
    """Makes what is missing of a queue's folder and file, private from the first moment. Raises ValueError for a link.

    A process that closes any descriptor of a file loses all of its POSIX locks on it, SQLite's among them; another
    process then takes itself for the only one, and removes the log that is in use. So nothing in this package opens
    `queue.db`, its `-wal` or its `-shm` beside SQLite. Only a file that is not there yet is made here, and `_making`
    keeps SQLite from opening it before it is closed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "files").mkdir(exist_ok=True, mode=0o700)
    path = folder / NAME
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE))
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(f"{path}: is a link or a folder; expected a file, or none") from None
    else:
        flush_folder(folder)
        flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_whole(connection: sqlite3.Connection, folder: Path) -> None:
    """Raises `Damaged` where a page of the database is. Reads all of it."""
    with told(folder):
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise damaged(folder, "; ".join(found).replace("\n", " ")[:300])


def check_within(connection: sqlite3.Connection, folder: Path, seconds: float) -> bool:
    """Raises `Damaged` where a page of the database is, as far as it can be read in so many seconds.

    Returns True if all of it was read.
    """
    ends = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > ends, 10_000)
    try:
        check_whole(connection, folder)
    except sqlite3.OperationalError as error:
        if _code(error) != INTERRUPTED:
            raise
        return False
    else:
        return True
    finally:
        connection.set_progress_handler(None, 0)


@contextlib.contextmanager
def changing(connection: sqlite3.Connection, folder: Path) -> Iterator[sqlite3.Connection]:
    """A block whose changes are kept together, on the disk, or not at all. Raises `NotNow` and `Damaged`."""
    with told(folder):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back already where the disk is full
                connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """A block in which errors of SQLite, and a full disk, become `NotNow` and `Damaged`."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as error:
        code = _code(error)
        if code in FOR_NOW:
            number = errno.ENOSPC if code == 13 else errno.EBUSY if code in (5, 6) else errno.EIO
            raise NotNow(number, f"{folder / NAME}: {FOR_NOW[code]} ({error})") from None
        if code in (11, 26):
            raise damaged(folder, str(error)) from None
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not isinstance(error, NotNow):
            raise NotNow(errno.ENOSPC, f"{folder}: the disk is full ({error.strerror})") from None
        raise


def damaged(folder: Path, found: str) -> Damaged:
    """Returns the error for a database that is damaged."""
    return Damaged(
        f"{folder / NAME}: is damaged ({found}); move {folder} away, and add its batches again: its files/ has them, "
        f"and `sqlite3 {NAME} .recover` writes what can still be read of results"
    )


def _code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    text = str(error).lower()
    if "malformed" in text or "not a database" in text:
        return 11
    return next((number for part, number in MESSAGES.items() if part in text), 1)


def _set_up(connection: sqlite3.Connection) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is removed is overwritten
    connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG}")


def _check_kind(connection: sqlite3.Connection, folder: Path) -> None:
    """Makes the tables of a new database. Raises `Damaged` for one of another program or of a newer version."""

    def kind() -> tuple[int, int]:
        return (connection.execute("PRAGMA application_id").fetchone()[0],
                connection.execute("PRAGMA user_version").fetchone()[0])  # fmt: skip

    if kind() == (APPLICATION, VERSION):
        return
    with changing(connection, folder):
        found = kind()
        if found == (APPLICATION, VERSION):
            return
        if found != (0, 0) or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise Damaged(
                f"{folder / NAME}: is no queue of this version (application {found[0]:#x}, version {found[1]}); "
                f"expected {APPLICATION:#x}, version {VERSION}: give another folder, or a newer wavefold"
            )
        for statement in SCHEMA.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
