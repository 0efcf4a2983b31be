"""What a batch has done and what is left, by model: from the counts that each result has changed with it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from wavefold.jobs.outputs import Usage
from wavefold.jobs.queue import RUNNING, Queue


class Part(NamedTuple):
    """A batch's lines of one model. `seconds`: of work on them. `left_s`: until they are done, at their rate so far."""

    model: str
    total: int
    completed: int
    failed: int
    under_way: int
    seconds: float
    usage: Usage

    @property
    def left(self) -> int:
        return self.total - self.completed - self.failed


class Summary(NamedTuple):
    """A batch, its row and its parts."""

    row: Any
    parts: list[Part]

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts)

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)

    @property
    def failed(self) -> int:
        return sum(part.failed for part in self.parts)

    @property
    def seconds(self) -> float:
        """Of work."""
        return sum(part.seconds for part in self.parts)

    @property
    def usage(self) -> Usage:
        return Usage(*(sum(counts) for counts in zip(*(part.usage for part in self.parts), strict=True)))

    @property
    def left_s(self) -> float | None:
        """Seconds of work that are left, at the rate so far; a model without one has that of all. None: not known."""
        done = self.completed + self.failed
        if self.row["state"] != RUNNING or not done:
            return None
        mean = self.seconds / done

        def rate(part: Part) -> float:
            ended = part.completed + part.failed
            return part.seconds / ended if ended else mean

        return sum(part.left * rate(part) for part in self.parts)

    @property
    def errors(self) -> list[dict[str, Any]]:
        return json.loads(self.row["errors"]) if self.row["errors"] else []


def summary_of(queue: Queue, row: Any) -> Summary:
    """Returns the summary of a batch, of which `row` is the row."""
    parts = []
    for group in queue.groups(row["number"]):
        ended = group["completed"] + group["failed"]
        under_way = group["total"] - ended - group["waiting"] if row["state"] == RUNNING else 0
        usage = Usage(group["input_tokens"], group["cached_tokens"], group["output_tokens"], group["reasoning_tokens"])
        parts.append(Part(group["model"], group["total"], group["completed"], group["failed"], under_way,
                          group["seconds"], usage))  # fmt: skip
    return Summary(row, parts)
