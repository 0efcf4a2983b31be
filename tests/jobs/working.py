"""Queues and workers for tests: files of lines, answers that are made of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from wavefold.jobs.queue import Queue, Wanted
from wavefold.jobs.worker import Answered, Worker

PATH = "/v1/completions"
PLAIN = Wanted()


def line(custom_id: str, model: str = "A", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": PATH,
        "body": {"model": model, "prompt": custom_id, **body},
    }


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(values) + "\n" for values in lines))
    return path


def added(queue: Queue, lines: Sequence[Any], wanted: Wanted = PLAIN) -> str:
    """Adds a batch of these lines. Returns its id."""
    return queue.add(queue.keep(write_lines(queue.folder / "lines.jsonl", lines)), wanted)


def answer_of(body: str) -> dict[str, Any]:
    """The one right answer to a body."""
    values = json.loads(body)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    return {"model": values["model"], "text": hashlib.sha256(json.dumps(values).encode()).hexdigest(), "usage": usage}


class Answering:
    """An `answer` that notes who asks. A body's `status` is answered with; its `fails` first, so often as it says."""

    def __init__(self, seconds: float = 0.0, memory: Path | None = None):
        """`memory`: a folder in which other processes find what has failed."""
        self.seconds, self.memory = seconds, memory
        self.asked: list[tuple[str, str]] = []
        self.most = self.now = 0
        self.failed: dict[str, int] = {}

    async def __call__(self, path: str, body: str) -> Answered:
        values = json.loads(body)
        self.asked.append((values["model"], values["prompt"]))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(values.get("seconds", self.seconds))
        finally:
            self.now -= 1
        status, times = values.get("fails", (200, 0))
        if self._num_failed(body) < times:
            self._note(body)
            if status == 0:
                raise RuntimeError("a fault of the server")
            return Answered(status, {"error": {"message": "not now", "code": values.get("code")}})
        if "status" in values:
            return Answered(values["status"], {"error": {"message": "no"}}, "req_1")
        return Answered(200, answer_of(body), "req_1")

    def _num_failed(self, body: str) -> int:
        if self.memory is not None:
            return int(self._mark(body).exists())
        return self.failed.get(body, 0)

    def _note(self, body: str) -> None:
        self.failed[body] = self.failed.get(body, 0) + 1
        if self.memory is not None:
            self._mark(body).touch()

    def _mark(self, body: str) -> Path:
        assert self.memory is not None
        return self.memory / hashlib.sha256(body.encode()).hexdigest()


def work(
    queue: Queue, answer: Callable[[str, str], Awaitable[Answered]], width: int = 4,
    until: Callable[[], bool] | None = None, **settings: Any,
) -> Worker:  # fmt: skip
    """Works until no batch runs, or until something is so. Fails after 60 s."""
    is_done = until or (lambda: all(row["state"] != "in_progress" for row in queue.batches()))

    async def main() -> Worker:
        worker = Worker(queue.folder, answer, lambda model: width, **settings)
        running = asyncio.ensure_future(worker.run())
        for _ in range(12_000):
            if running.done() or is_done():
                break
            await asyncio.sleep(0.005)
        assert running.done() or is_done(), "it did not end"
        worker.stop()
        await asyncio.wait_for(running, 30)
        return worker

    return asyncio.run(main())
