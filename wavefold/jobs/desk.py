"""The worker's side of a queue: lines are taken, and results recorded. One process does so at a time.

A turn is one transaction: the results that came are recorded, each with the mark that its line has ended; lines that
could not be answered for now wait again; and the next lines are taken. So a process that is killed at any moment leaves
every line either with its one result or without one. Lines that it had begun wait again, behind those of their model
that nobody has begun: one that ends every process which answers it keeps none from being answered.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from wavefold.jobs.files import sweep
from wavefold.jobs.order import next_model
from wavefold.jobs.outputs import Usage, result_text
from wavefold.jobs.queue import COMPLETED, RUNNING, Queue, name_results
from wavefold.jobs.quiet import QuietHours, minute_of
from wavefold.jobs.schema import BEGUN, ENDED, WAITING, check_whole

MOST_DEATHS = 20
"""Begins of a line, each with a process that died: then it gets a result that says so."""
DIED = "the process that answered this line has died each time, {} times"


class Taken(NamedTuple):
    """A line that is under way. `attempts`: how often it has been begun, this time included. `failures`: of these."""

    number: int
    batch: int
    batch_id: str
    group: int
    place: int
    custom_id: str
    model: str
    path: str
    body: str
    attempts: int
    failures: int


class Outcome(NamedTuple):
    """What a line was answered with. `body`: of JSON."""

    line: Taken
    status: int
    request_id: str
    body: Any
    usage: Usage = Usage()


class Desk:
    """For the process that holds the lock of the queue's worker. Methods raise `NotNow` and `Damaged`."""

    def __init__(self, queue: Queue):
        self.queue = queue

    def begin(self) -> None:
        """Checks the whole database, and takes back what another process had begun."""
        queue = self.queue
        with queue.lock:
            check_whole(queue.connection, queue.folder)
            sweep(queue.connection, queue.folder)
        with queue.changes() as connection:
            for line in self._lines(connection, f"lines.state = {BEGUN} AND batches.state = '{RUNNING}'", ()):
                if line.attempts - line.failures < MOST_DEATHS:
                    _wait_again(connection, line)
                else:
                    message = DIED.format(line.attempts - line.failures)
                    error = {"message": message, "type": "server_error", "param": None, "code": "server_error"}
                    _record(connection, Outcome(line, 500, "", {"error": error}))
            connection.execute("UPDATE lines SET state = ? WHERE state = ?", (WAITING, BEGUN))  # of ended batches

    @property
    def version(self) -> int:
        """Another number after another process has changed something."""
        return int(self.queue.rows("PRAGMA data_version")[0][0])

    def has_lines(self, now: float) -> bool:
        """True if a line may be taken at this time."""
        with self.queue.lock:
            return bool(self._open_groups(now))

    def ended(self, batches: Collection[int]) -> set[int]:
        """Returns those batches, by number, that do not run any more: cancelled, or removed."""
        rows = self.queue.rows("SELECT number FROM batches WHERE state = ?", (RUNNING,))
        return set(batches) - {row["number"] for row in rows}

    def turn(
        self, outcomes: Sequence[Outcome] = (), returned: Mapping[Taken, bool] = {}, room: int = 0,
        num_under_way: int = 0, seconds: Mapping[int, float] = {}, now: float | None = None,
    ) -> list[Taken]:  # fmt: skip
        """Records outcomes, puts lines back, and takes up to `room` new ones, which are returned.

        `returned`: lines that wait again, and whether they failed (else this was no attempt). `num_under_way`: others
        that go on; a line of another model is taken only where there is none. `seconds`: of work, by group.
        """
        with self.queue.changes() as connection:
            for outcome in outcomes:
                _record(connection, outcome)
            for line, has_failed in returned.items():
                _wait_again(connection, line, int(not has_failed), int(has_failed))
            connection.executemany("UPDATE groups SET seconds = seconds + ? WHERE number = ?",
                                   [(spent, group) for group, spent in seconds.items()])  # fmt: skip
            return self._take(connection, room, num_under_way, time.time() if now is None else now) if room else []

    def _take(self, connection: sqlite3.Connection, room: int, num_under_way: int, now: float) -> list[Taken]:
        groups = self._open_groups(now)
        levels: dict[int, dict[str, int]] = {}
        for row in groups:
            models = levels.setdefault(row["priority"], {})
            models[row["model"]] = min(row["batch"], models.get(row["model"], row["batch"]))
        priorities = sorted(levels, reverse=True)
        loaded = self._loaded(connection)
        model = next_model([levels[priority] for priority in priorities], loaded)
        if model is None or (model != loaded and num_under_way):
            return []
        taken: list[Taken] = []
        for row in groups:
            if row["priority"] == priorities[0] and row["model"] == model and len(taken) < room:
                taken += self._begun(connection, row, room - len(taken), now)
        if model != loaded:
            connection.execute("INSERT OR REPLACE INTO worker (key, value) VALUES ('model', ?)", (model,))
            connection.execute("UPDATE batches SET swaps = swaps + 1 WHERE number = ?", (taken[0].batch,))
        return taken

    def _begun(self, connection: sqlite3.Connection, group: sqlite3.Row, count: int, now: float) -> list[Taken]:
        """Marks the next lines of a group as begun."""
        lines = self._lines(connection, f"lines.groups = ? AND lines.state = {WAITING}", (group["number"],), count)
        for line in lines:
            connection.execute(
                "UPDATE lines SET state = ?, attempts = attempts + 1 WHERE number = ?", (BEGUN, line.number)
            )
        connection.execute("UPDATE groups SET waiting = waiting - ? WHERE number = ?", (len(lines), group["number"]))
        connection.execute("UPDATE batches SET began = ? WHERE number = ? AND began IS NULL", (now, group["batch"]))
        return [line._replace(attempts=line.attempts + 1) for line in lines]

    def _lines(
        self, connection: sqlite3.Connection, condition: str, values: Sequence[Any], count: int = -1
    ) -> list[Taken]:
        rows = connection.execute(
            "SELECT lines.number, lines.batch, batches.id, lines.groups, lines.place, lines.custom_id, groups.model, "
            "lines.path, lines.body, lines.attempts, lines.failures FROM lines "
            "JOIN batches ON batches.number = lines.batch "
            f"JOIN groups ON groups.number = lines.groups WHERE {condition} "
            "ORDER BY lines.attempts, lines.place LIMIT ?",
            (*values, count),
        )
        return [Taken(*row) for row in rows]

    def _open_groups(self, now: float) -> list[sqlite3.Row]:
        """Returns the groups that have waiting lines and may run at this time, the oldest batches first."""
        rows = self.queue.rows(
            "SELECT groups.number, groups.batch, groups.model, batches.priority, batches.quiet FROM batches "
            "JOIN groups ON groups.batch = batches.number WHERE batches.state = ? AND groups.waiting > 0 "
            "ORDER BY groups.batch",
            (RUNNING,),
        )
        minute = minute_of(now)
        return [row for row in rows if row["quiet"] is None or QuietHours.parse(row["quiet"]).allow(minute)]

    def _loaded(self, connection: sqlite3.Connection) -> str | None:
        row = connection.execute("SELECT value FROM worker WHERE key = 'model'").fetchone()
        return None if row is None else str(row["value"])


def _record(connection: sqlite3.Connection, outcome: Outcome) -> None:
    """Marks a line as ended and keeps its result; nothing where its batch has ended before. Part of a change."""
    line, now = outcome.line, time.time()
    changed = connection.execute(
        "UPDATE lines SET state = ? WHERE number = ? AND state = ? AND batch IN "
        "(SELECT number FROM batches WHERE state = ?)",
        (ENDED, line.number, BEGUN, RUNNING),
    ).rowcount
    if not changed:
        return
    failed = outcome.status != 200
    text = result_text(line.batch_id, line.place, line.custom_id, outcome.status, outcome.request_id, outcome.body)
    connection.execute("INSERT INTO results (line, status, text, ended) VALUES (?, ?, ?, ?)",
                       (line.number, outcome.status, text, now))  # fmt: skip
    kind, size = ("error_bytes", "failed") if failed else ("output_bytes", "completed")
    usage = outcome.usage
    connection.execute(
        f"UPDATE groups SET {size} = {size} + 1, {kind} = {kind} + ?, input_tokens = input_tokens + ?, "
        "cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?, reasoning_tokens = reasoning_tokens + ? "
        "WHERE number = ?",
        (len(text), usage.input, usage.cached, usage.output, usage.reasoning, line.group),
    )
    left = connection.execute(
        "SELECT sum(total - completed - failed) FROM groups WHERE batch = ?", (line.batch,)
    ).fetchone()[0]
    if not left:
        connection.execute("UPDATE batches SET state = ?, ended = ? WHERE number = ?", (COMPLETED, now, line.batch))
        name_results(connection, line.batch)


def _wait_again(connection: sqlite3.Connection, line: Taken, fewer: int = 0, failures: int = 0) -> None:
    """Lets a line wait again: with `fewer` attempts and more `failures`. Part of a change."""
    changed = connection.execute(
        "UPDATE lines SET state = ?, attempts = attempts - ?, failures = failures + ? WHERE number = ? AND state = ?",
        (WAITING, fewer, failures, line.number, BEGUN),
    ).rowcount
    connection.execute("UPDATE groups SET waiting = waiting + ? WHERE number = ?", (changed, line.group))
