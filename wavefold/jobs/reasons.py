"""Why a batch does not go on, and why lines of it have failed: in words, for who looks at the queue."""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple

from wavefold.jobs import outputs
from wavefold.jobs.queue import RUNNING, Queue
from wavefold.jobs.quiet import QuietHours, minute_of
from wavefold.jobs.summary import Summary

MOST_READ = 20_000
"""Failed lines of a batch whose reasons are counted."""
MOST_REASON = 300
CHANGING = re.compile(r"req_\w+|\d+")
"""Parts of a message that differ from line to line."""


class Turns(NamedTuple):
    """Whose turn it is, at a time. `batches`: those that may run, by number: their ids and priorities.

    `under_way`: by model, the id of the first batch that has lines of it under way.
    """

    now: float
    batches: dict[int, tuple[str, int]]
    under_way: dict[str, str]


def turns_of(queue: Queue, now: float | None = None) -> Turns:
    """Returns whose turn it is now."""
    now = time.time() if now is None else now
    rows = queue.rows(
        "SELECT batches.number, id, priority, quiet, groups.model, groups.waiting, "
        "total - completed - failed - waiting AS under_way FROM batches JOIN groups ON groups.batch = batches.number "
        "WHERE state = ? AND total > completed + failed ORDER BY batches.number",
        (RUNNING,),
    )
    batches = {row["number"]: (row["id"], row["priority"]) for row in rows
               if row["waiting"] and _is_allowed(row["quiet"], now)}  # fmt: skip
    return Turns(now, batches, {row["model"]: row["id"] for row in reversed(rows) if row["under_way"]})


def why_waiting(batch: Summary, turns: Turns, paused: str | None) -> str | None:
    """Returns why a batch does not go on; None where it does, or has ended. `paused`: why no batch does."""
    row = batch.row
    if row["state"] != RUNNING:
        return None
    if paused:
        return paused
    if any(part.under_way for part in batch.parts):
        return None
    if not _is_allowed(row["quiet"], turns.now):
        clock = time.strftime("%H:%M", time.localtime(turns.now))
        return f"its quiet hours are {row['quiet']}, and it is {clock}"
    above = [(priority, name) for name, priority in turns.batches.values() if priority > row["priority"]]
    if above:
        priority, name = max(above, key=lambda one: one[0])
        return f"{name} is first: its priority is {priority}, and that of this one {row['priority']}"
    models = {part.model for part in batch.parts if part.left}
    if same := [name for model, name in turns.under_way.items() if model in models]:
        return f"lines of {same[0]} are under way, of the same model"
    if turns.under_way:
        model = next(iter(turns.under_way))
        return f"lines of model {model} are under way; those of another model begin when they have ended"
    return None


class Failures(NamedTuple):
    """A reason why lines failed, as one of them has it, and how many lines have one like it."""

    num_lines: int
    status: int
    message: str


def why_failed(queue: Queue, batch: int, most_read: int = MOST_READ) -> list[Failures]:
    """Returns the reasons of a batch's failed lines, the most frequent first. `batch`: its number."""
    found: dict[tuple[int, str], Failures] = {}
    for number, text in enumerate(outputs.results(queue.rows, batch, True)):
        if number >= most_read:
            break
        response = json.loads(text)["response"]
        message = str(outputs.error_of(response["body"]).get("message") or "no reason is given")[:MOST_REASON]
        key = (response["status_code"], CHANGING.sub("", message))
        before = found.get(key, Failures(0, response["status_code"], message))
        found[key] = before._replace(num_lines=before.num_lines + 1)
    return sorted(found.values(), key=lambda one: -one.num_lines)


def _is_allowed(quiet: str | None, now: float) -> bool:
    return quiet is None or QuietHours.parse(quiet).allow(minute_of(now))
