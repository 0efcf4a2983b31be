"""Uploaded files: their bytes in a folder beside the database, their rows in it.

A file is written under a name of its own, locked by its writer, and gets its last name within the transaction that
makes its row. So every row has its bytes. What a killed writer left is found by its lock, and removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from wavefold.atomic import PRIVATE, try_lock
from wavefold.jobs.schema import NoQueue, changing, flush_folder, told

MOST_BYTES = 512 * 2**20
"""Of a file, as OpenAI has it."""
MOST_NAME = 255
MARK = ".upload-"
YOUNG_S = 60.0
"""A file of another process that is younger may not have its lock yet."""


class TooLarge(ValueError):
    """A file of more bytes than are taken."""


class Upload:
    """A file that is being written. `keep` makes it one of the queue's; `close` drops it unless it was kept."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES):
        self._folder, self._most = folder, most_bytes
        self.num_bytes = 0
        self._path = folder / "files" / f"{MARK}{secrets.token_hex(12)}"
        with told(folder):
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
            except FileNotFoundError:
                raise NoQueue(f"{folder}: holds no queue any more; start the server again") from None
            with contextlib.suppress(OSError):  # a file system without locks
                try_lock(handle)
            self.file: BinaryIO = os.fdopen(handle, "w+b")

    def write(self, data: bytes) -> None:
        """Raises TooLarge, and NotNow where the disk is full."""
        self.num_bytes += len(data)
        if self.num_bytes > self._most:
            raise TooLarge(f"the file is larger than {self._most:,} bytes, the most that is taken")
        with told(self._folder):
            self.file.write(data)

    def keep(self, connection: sqlite3.Connection, name: str, purpose: str = "batch") -> str:
        """Returns the id of the file, whose bytes and row are on the disk then. Raises NotNow."""
        name = "".join(c if c.isprintable() else "\ufffd" for c in name)[:MOST_NAME] or "file.jsonl"
        name = name.encode("utf-8", errors="replace").decode("utf-8")
        file_id = f"file-{secrets.token_hex(12)}"
        with told(self._folder):
            self.file.flush()
            os.fsync(self.file.fileno())
        place = path_of(self._folder, file_id)
        try:
            with changing(connection, self._folder):
                connection.execute(
                    "INSERT INTO files (id, name, purpose, bytes, created) VALUES (?, ?, ?, ?, ?)",
                    (file_id, name, purpose, self.num_bytes, time.time()),
                )
                os.replace(self._path, place)
                flush_folder(place.parent)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        return file_id

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be flushed is dropped with the rest
            self.file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def path_of(folder: Path, file_id: str) -> Path:
    """Returns where the bytes of an uploaded file are."""
    return folder / "files" / file_id


def sweep(connection: sqlite3.Connection, folder: Path) -> int:
    """Removes what killed writers left: unfinished files, and bytes without a row. Returns how many there were."""
    removed = 0
    with changing(connection, folder):  # nobody names a file meanwhile
        known = {row["id"] for row in connection.execute("SELECT id FROM files")}
        for path in (folder / "files").iterdir():
            is_left = _is_abandoned(path) if path.name.startswith(MARK) else path.name not in known
            if is_left:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def chunks(path: Path, size: int = 256 * 1024) -> Iterator[bytes]:
    """Yields the bytes of a file, a part at a time."""
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


def file_values(row: Any) -> dict[str, Any]:
    """Returns a file's row in the shape of OpenAI's API."""
    return {"id": row["id"], "object": "file", "bytes": row["bytes"], "created_at": int(row["created"]),
            "filename": row["name"], "purpose": row["purpose"], "status": "processed"}  # fmt: skip


def _is_abandoned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return time.time() - os.fstat(handle).st_mtime > YOUNG_S and try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)
