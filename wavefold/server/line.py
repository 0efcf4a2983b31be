"""One line of JSON for each request, on stderr: what it was, how it ended, what it cost. Nothing of its text."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

from wavefold.server.news import Ended

log = logging.getLogger("wavefold.server")


@dataclass
class Line:
    """What is known of a request so far. `request_id` is also in the headers of the answer."""

    method: str
    path: str
    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    model: str | None = None
    stream: bool | None = None
    error: str | None = None
    """The code of a refusal."""
    ends: list[Ended] = field(default_factory=list)
    """Of the engine's requests, where it had any."""

    def values(self) -> dict[str, Any]:
        """The fields of the line, those without a value left out."""
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z", "id": self.request_id,
            "method": self.method, "path": self.path[:200], "status": self.status,
            "total_s": round(time.perf_counter() - self.began, 4),
            "model": self.model, "stream": self.stream, "error": self.error, **self._costs(),
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}

    def _costs(self) -> dict[str, Any]:
        if not self.ends:
            return {}
        usages = [ended.usage for ended in self.ends]
        first = self.ends[0]
        per_token = time_per_token(first)
        return {
            "finish": ",".join(ended.reason for ended in self.ends),
            "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
            "hit_in_memory": sum(usage.cached_tokens for usage in usages),
            "hit_on_disk": sum(usage.disk_tokens for usage in usages),
            "computed": sum(usage.computed_tokens for usage in usages),
            "left_chain_at": usages[0].left_chain_at,
            "completion_tokens": sum(usage.completion_tokens for usage in usages),
            "queue_s": None if first.queue_s is None else round(first.queue_s, 4),
            "first_token_s": None if first.first_s is None else round(first.first_s, 4),
            "per_token_s": None if per_token is None else round(per_token, 5),
        }


def time_per_token(ended: Ended) -> float | None:
    """Returns the seconds of each token after the first; None where there is none."""
    if ended.first_s is None or ended.num_tokens < 2:
        return None
    return (ended.total_s - ended.first_s) / (ended.num_tokens - 1)


Writer = Callable[[Line], None]


def to_stream(stream: TextIO | None = None) -> Writer:
    """Returns what writes lines to a stream (None: stderr). A stream that is gone loses them, and nothing else."""

    def write(line: Line) -> None:
        try:
            print(json.dumps(line.values()), file=stream or sys.stderr, flush=True)
        except (OSError, ValueError):
            log.debug("a line of the log could not be written")

    return write
