"""Files of results, in the format of OpenAI's batch API: lines of the queue, read as they are asked for.

    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...", "body": {...}},
     "error": null}

Such a file has no bytes of its own: it cannot be half written, and results are there before their batch has ended.
Answers are in the output file, refusals in the error file, each in the order of the input.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Read = Callable[[str, Sequence[Any]], list[sqlite3.Row]]
"""Returns the rows of a statement with its values."""
PAGE = 32
"""Lines that are read at a time."""


class Usage(NamedTuple):
    """Tokens of an answer."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


def result_text(batch: str, place: int, custom_id: str, status: int, request_id: str, body: Any) -> str:
    """Returns the line of a result, with its end."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    name = f"batch_req_{batch.removeprefix('batch_')}{place:06x}"
    return json.dumps({"id": name, "custom_id": custom_id, "response": response, "error": None}) + "\n"


def error_of(body: Any) -> dict[str, Any]:
    """Returns the error of an answer's body; an empty one of what has none."""
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def usage_of(body: Any) -> Usage:
    """Returns the tokens that a body of any of the endpoints counts."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return Usage()

    def count(*names: str) -> int:
        for name in names:
            value: Any = usage
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if isinstance(value, int):
                return value
        return 0

    return Usage(
        count("prompt_tokens", "input_tokens"),
        count("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"),
        count("completion_tokens", "output_tokens"),
        count("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens"),
    )


def results(read: Read, batch: int, failed: bool | None = None) -> Iterator[str]:
    """Yields a batch's results in the order of its lines: answers, refusals, or both (None)."""
    which = {None: "", False: "AND results.status = 200", True: "AND results.status != 200"}[failed]
    place = 0
    while True:
        rows = read(
            "SELECT lines.place, results.text FROM lines JOIN results ON results.line = lines.number "
            f"WHERE lines.batch = ? AND lines.place > ? {which} ORDER BY lines.place LIMIT ?",
            (batch, place, PAGE),
        )
        yield from (str(row["text"]) for row in rows)
        if len(rows) < PAGE:
            return
        place = rows[-1]["place"]
