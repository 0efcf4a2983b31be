"""A server of `wavefold serve` in a process of its own, for the programs here that load it."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PATH = "/v1/completions"
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


class Log:
    """The server's log, which a thread reads so that it never blocks: counts of statuses, and its last lines."""

    def __init__(self, process: subprocess.Popen[str]):
        self.statuses: Counter[int] = Counter()
        self.faults = 0
        """Lines that are none of a request: warnings, and the first lines of tracebacks."""
        self.last: deque[str] = deque(maxlen=200)
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.last.append(line)
            try:
                self.statuses[json.loads(line)["status"]] += 1
            except (ValueError, KeyError, TypeError):
                self.faults += not line.startswith((" ", "\n"))


class Place(NamedTuple):
    """A server that runs."""

    port: int
    process: subprocess.Popen[str]
    log: Log

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    @property
    def rss_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0

    def value(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics").decode(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[Place]:
    """A block in which a server runs. It has to end in time and with 0."""
    command = [sys.executable, "-m", "wavefold", "serve", *arguments, "--port", "0", "--name", "bench"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"served as bench at http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise SystemExit("the server did not start")
    log = Log(process)
    try:
        yield Place(int(found[1]), process, log)
        process.terminate()
        if process.wait(120):
            raise SystemExit(f"the server ended with {process.returncode}:\n{''.join(log.last)}")
    finally:
        process.kill()


def body_of(ids: Sequence[int], max_tokens: int, seed: int, **fields: Any) -> dict[str, Any]:
    """A stream of random tokens that no end ends."""
    return {"model": "bench", "prompt": list(ids), "max_tokens": max_tokens, "stream": True, "seed": seed,
            "temperature": 1, "logit_bias": {"1": -100}, **fields}  # fmt: skip


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Prompts of random ids."""
    drawn = random.Random(seed)
    return [[0, *(drawn.randrange(100, 3000) for _ in range(length - 1))] for _ in range(count)]
