"""The queue: files and batches, from any process, at any time. Who works on them is at the desk (desk.py).

with Queue(folder, create=True) as queue:
    batch = queue.add(queue.keep(path), Wanted(priority=1, quiet=QuietHours.parse("22:00-07:00")))
    queue.batch(batch)          counts, tokens, what is left
    queue.cancel(batch)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wavefold.jobs import outputs
from wavefold.jobs.files import Upload, chunks, path_of
from wavefold.jobs.lines import MOST_LINES, LineError, line_of, numbered, object_of
from wavefold.jobs.quiet import QuietHours
from wavefold.jobs.schema import NotNow, changing, check_place, check_within, open_database, place_of, told

MOST_ERRORS = 100
"""Of a file that are told of."""
RUNNING, COMPLETED, FAILED, CANCELLED = "in_progress", "completed", "failed", "cancelled"
"""States of a batch, in OpenAI's words."""
MOST_PRIORITY = 1000


class Wanted(NamedTuple):
    """How a batch is to be run. `endpoint`: the only one of its lines (None: as each line says). `model`: instead of
    those of the lines. A higher `priority` is first. `quiet`: the hours in which it may run (None: all). `offered`: the
    models that there are; a line for another one is an error (None: not known)."""

    endpoint: str | None = None
    model: str | None = None
    priority: int = 0
    quiet: QuietHours | None = None
    metadata: dict[str, str] | None = None
    offered: Collection[str] | None = None


USUAL = Wanted()


class Invalid(ValueError):
    """A file that makes no batch: all its errors, `MOST_ERRORS` at most."""

    def __init__(self, errors: Sequence[LineError]):
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}")
        self.errors = list(errors)


class NoSuch(ValueError):
    """An id that the queue does not have."""


class Queue:
    """The queue in a folder. Threads may share it: they wait for each other.

    Raises NoQueue where there is none and none is to be made, `Damaged` and `NotNow` (schema.py); so do all methods.
    """

    def __init__(self, folder: Path, create: bool = False):
        self.folder = folder
        self.lock = threading.RLock()
        self.connection = open_database(folder, create)
        self.place = place_of(folder)

    def close(self) -> None:
        with self.lock, contextlib.suppress(sqlite3.Error):
            self.connection.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def check_place(self) -> None:
        """Raises NoQueue where the database has been removed or replaced: what is written goes nowhere then."""
        check_place(self.folder, self.place)

    def check(self, seconds: float) -> bool:
        """Raises `Damaged` where the database is, as far as so many seconds reach. Returns True if all was read."""
        with self.lock:
            return check_within(self.connection, self.folder, seconds)

    @contextlib.contextmanager
    def changes(self) -> Iterator[sqlite3.Connection]:
        """A block whose changes are kept together or not at all."""
        with self.lock, changing(self.connection, self.folder) as connection:
            yield connection

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Returns what a statement reads."""
        with self.lock, told(self.folder):
            return self.connection.execute(statement, values).fetchall()

    # -- files ---------------------------------------------------------------------------------------------------------

    def keep(self, path: Path) -> str:
        """Copies a file into the queue. Returns its id. Raises TooLarge."""
        with self.upload() as upload:
            for data in chunks(path):
                upload.write(data)
            return self.kept(upload, path.name)

    def upload(self) -> Upload:
        """Returns a new file, which its writer closes."""
        return Upload(self.folder)

    def kept(self, upload: Upload, name: str) -> str:
        """Makes what was uploaded a file of the queue. Returns its id."""
        with self.lock:
            return upload.keep(self.connection, name)

    def file(self, file_id: str) -> sqlite3.Row:
        """Raises NoSuch."""
        rows = self.rows("SELECT * FROM files WHERE id = ?", (file_id,))
        if not rows:
            raise NoSuch(f"there is no file {file_id[:100]!r}")
        return rows[0]

    def files(self) -> list[sqlite3.Row]:
        """Returns all files, the oldest first."""
        return self.rows("SELECT * FROM files ORDER BY created, id")

    def content(self, file_id: str) -> Iterator[bytes]:
        """Yields the bytes of a file. One of results is read from the queue. Raises NoSuch."""
        row = self.file(file_id)
        if row["batch"] is None:
            yield from chunks(path_of(self.folder, file_id))
        else:
            yield from self.results(row["batch"], bool(row["failed"]))

    def results(self, batch: int, failed: bool | None = None) -> Iterator[bytes]:
        """Yields results of a batch, by its number, as they are so far. `failed`: answers, refusals, or both (None)."""
        for text in outputs.results(self.rows, batch, failed):
            yield text.encode("utf-8")

    def delete_file(self, file_id: str) -> None:
        """Removes a file. Batches that were made from it go on; of results only the file's name is gone."""
        row = self.file(file_id)
        with self.changes() as connection:
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))
        if row["batch"] is None:
            path_of(self.folder, file_id).unlink(missing_ok=True)

    # -- batches -------------------------------------------------------------------------------------------------------

    def add(
        self, file_id: str, wanted: Wanted = USUAL, read: Callable[[int, bytes], dict[str, Any]] = object_of
    ) -> str:
        """Makes a batch of an uploaded file. Returns its id. `read`: a line's object from its number and bytes.

        Raises NoSuch, and Invalid for a file that makes none: then nothing is kept.
        """
        check_priority(wanted.priority)
        path = self._uploaded(file_id)
        batch_id = f"batch_{secrets.token_hex(12)}"
        with self.changes() as connection, path.open("rb") as file:
            batch = _insert_batch(connection, batch_id, file_id, wanted, RUNNING)
            errors: list[LineError] = []
            counts: dict[str, list[int]] = {}
            first = ""
            try:
                for number, data in numbered(file):
                    try:
                        line = line_of(number, read(number, data), wanted.endpoint, wanted.model, wanted.offered)
                        first = first or line.path
                        _insert_line(connection, batch, number, line, counts)
                    except LineError as error:
                        errors.append(error)
                    if len(errors) >= MOST_ERRORS or sum(count for _, count in counts.values()) > MOST_LINES:
                        break
            except LineError as error:  # a line that cannot be read to its end
                errors.append(error)
            if sum(count for _, count in counts.values()) > MOST_LINES:
                errors.append(LineError("too_many_tasks", f"the file has more than {MOST_LINES:,} lines"))
            if not counts and not errors:
                errors.append(LineError("empty_file", "the file has no lines"))
            if errors:
                raise Invalid(errors)
            connection.executemany("UPDATE groups SET total = ?, waiting = ? WHERE number = ?",
                                   [(count, count, group) for group, count in counts.values()])  # fmt: skip
            connection.execute("UPDATE batches SET endpoint = ? WHERE number = ?", (wanted.endpoint or first, batch))
        return batch_id

    def add_failed(self, file_id: str, wanted: Wanted, invalid: Invalid) -> str:
        """Keeps a batch that cannot be run, with its errors. Returns its id."""
        batch_id = f"batch_{secrets.token_hex(12)}"
        with self.changes() as connection:
            batch = _insert_batch(connection, batch_id, file_id, wanted, FAILED)
            errors = json.dumps([error.values() for error in invalid.errors])
            connection.execute("UPDATE batches SET errors = ?, ended = created WHERE number = ?", (errors, batch))
        return batch_id

    def batch(self, batch_id: str) -> sqlite3.Row:
        """Raises NoSuch."""
        rows = self.rows("SELECT * FROM batches WHERE id = ?", (batch_id,))
        if not rows:
            raise NoSuch(f"there is no batch {batch_id[:100]!r}")
        return rows[0]

    def batches(self) -> list[sqlite3.Row]:
        """Returns all batches, the newest first."""
        return self.rows("SELECT * FROM batches ORDER BY number DESC")

    def groups(self, batch: int) -> list[sqlite3.Row]:
        """Returns a batch's lines by model: counts, tokens, seconds."""
        return self.rows("SELECT * FROM groups WHERE batch = ? ORDER BY model", (batch,))

    def cancel(self, batch_id: str) -> bool:
        """Ends a batch. What is under way is dropped; results that there are stay. False where it had ended."""
        row = self.batch(batch_id)
        with self.changes() as connection:
            changed = connection.execute(
                "UPDATE batches SET state = ?, ended = ? WHERE number = ? AND state = ?",
                (CANCELLED, time.time(), row["number"], RUNNING),
            ).rowcount
            if changed:
                name_results(connection, row["number"])
        return bool(changed)

    def remove(self, batch_id: str) -> None:
        """Removes a batch that has ended, with its results and its input. Raises ValueError for one that has not."""
        row = self.batch(batch_id)
        with self.changes() as connection:
            done = connection.execute(
                "DELETE FROM batches WHERE number = ? AND state != ?", (row["number"], RUNNING)
            ).rowcount
            if not done:
                raise ValueError(f"{batch_id} has not ended; cancel it first")
        with contextlib.suppress(NotNow):  # the log has it no more either, once nobody reads
            self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(NoSuch):
            if not self.rows("SELECT 1 FROM batches WHERE input_file = ?", (row["input_file"],)):
                self.delete_file(row["input_file"])

    def _uploaded(self, file_id: str) -> Path:
        row = self.file(file_id)
        if row["batch"] is not None:
            raise ValueError(f"file {file_id!r} holds results; expected one that was uploaded")
        return path_of(self.folder, file_id)


def check_priority(priority: int) -> None:
    """Raises ValueError for a priority out of range."""
    if not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        raise ValueError(f"priority = {priority} is not allowed; expected {-MOST_PRIORITY} to {MOST_PRIORITY}")


def name_results(connection: sqlite3.Connection, batch: int) -> None:
    """Gives the results of a batch that has ended their files, those that have a line. Part of a change."""
    sums = connection.execute(
        "SELECT sum(output_bytes) AS output, sum(error_bytes) AS error FROM groups WHERE batch = ?", (batch,)
    ).fetchone()
    row = connection.execute("SELECT id FROM batches WHERE number = ?", (batch,)).fetchone()
    for kind, failed in (("output", 0), ("error", 1)):
        if not sums[kind]:
            continue
        file_id = f"file-{secrets.token_hex(12)}"
        connection.execute(
            "INSERT INTO files (id, name, purpose, bytes, created, batch, failed) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (file_id, f"{row['id']}_{kind}.jsonl", "batch_output", sums[kind], time.time(), batch, failed),
        )
        connection.execute(f"UPDATE batches SET {kind}_file = ? WHERE number = ?", (file_id, batch))


def _insert_batch(connection: sqlite3.Connection, batch_id: str, file_id: str, wanted: Wanted, state: str) -> int:
    row = connection.execute(
        "INSERT INTO batches (id, input_file, endpoint, model, priority, quiet, metadata, state, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (batch_id, file_id, wanted.endpoint or "", wanted.model, wanted.priority,
         None if wanted.quiet is None else str(wanted.quiet),
         None if wanted.metadata is None else json.dumps(wanted.metadata), state, time.time()),
    )  # fmt: skip
    assert row.lastrowid is not None
    return row.lastrowid


def _insert_line(
    connection: sqlite3.Connection, batch: int, number: int, line: Any, counts: dict[str, list[int]]
) -> None:
    """Raises LineError for a custom_id that another line has. `counts`: by model, its group and lines."""
    if line.model not in counts:
        group = connection.execute("INSERT INTO groups (batch, model) VALUES (?, ?)", (batch, line.model)).lastrowid
        counts[line.model] = [group or 0, 0]
    try:
        connection.execute(
            "INSERT INTO lines (batch, place, groups, custom_id, path, body) VALUES (?, ?, ?, ?, ?, ?)",
            (batch, number, counts[line.model][0], line.custom_id, line.path, line.body),
        )
    except sqlite3.IntegrityError:
        raise LineError("duplicate_custom_id", f"custom_id {line.custom_id[:100]!r} is another line's too", number,
                        "custom_id") from None  # fmt: skip
    counts[line.model][1] += 1
