"""llama.cpp's own server in a process beside this one, asked over HTTP; it stands still between turns (SIGSTOP)."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

READY_S = 300
SPARE_TOKENS = 64
"""Of a slot, beside those of a request."""


class LlamaServer:
    """Owns the process. Close it, or use it in a `with`."""

    name = "llama.cpp"

    def __init__(self, program: str, gguf: Path, num_slots: int, slot_tokens: int, num_threads: int):
        """`num_slots` requests of at most `slot_tokens` tokens run at once. Raises ValueError if it does not start."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        threads, context = str(num_threads), num_slots * (slot_tokens + SPARE_TOKENS)
        command = [
            program, "-m", str(gguf), "-t", threads, "-tb", threads, "-np", str(num_slots), "-c", str(context),
            "--host", "127.0.0.1", "--port", str(self._port), "--no-ui",
        ]  # fmt: skip
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by close()
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._words)
        except OSError as error:
            self._words.close()
            raise ValueError(f"{program}: cannot be started: {error.strerror}") from None
        try:
            asyncio.run(self._ready())
            self._process.send_signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def ask(self, prompts: list[list[int]], new: int) -> list[list[float]]:
        """Sends all prompts at once, each for `new` of the most likely tokens. Returns the times of the tokens.

        No end ends an answer, and no prompt is kept. Raises ValueError with the server's reason if it refuses.
        """
        self._process.send_signal(signal.SIGCONT)
        times: list[list[float]] = [[] for _ in prompts]
        began = time.perf_counter()

        async def ask_one(number: int, ids: list[int]) -> None:
            def take(event: dict[str, Any]) -> None:
                if "error" in event:
                    raise ValueError(f"{self.name}: {event['error']}")
                times[number].extend([time.perf_counter() - began] * len(event.get("tokens", ())))

            fields = {
                "prompt": ids, "n_predict": new, "stream": True, "ignore_eos": True, "temperature": 0.0,
                "cache_prompt": False, "return_tokens": True,
            }  # fmt: skip
            status, rest = await self._exchange("POST", "/completion", json.dumps(fields).encode(), take)
            if status != 200:
                raise ValueError(f"{self.name}: status {status}: {rest}")

        async def ask_all() -> None:
            await asyncio.gather(*(ask_one(number, ids) for number, ids in enumerate(prompts)))

        asyncio.run(ask_all())
        self._process.send_signal(signal.SIGSTOP)
        return times

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._words.close()

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def _ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._words.seek(0)
                words = self._words.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
                raise ValueError(f"{self.name}: its process ended: {words[-1]}")
            try:
                if (await self._exchange("GET", "/health"))[0] == 200:
                    return
            except OSError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
        raise ValueError(f"{self.name}: was not ready after {READY_S} seconds")

    async def _exchange(
        self, method: str, path: str, body: bytes = b"", take: Callable[[dict[str, Any]], None] = lambda event: None
    ) -> tuple[int, str]:
        """Sends one request and calls `take` with each event as it comes. Returns the status and the last JSON."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            first = (await reader.readline()).split()
            if len(first) < 2:
                raise ConnectionError("no answer")
            last = b""
            while line := await reader.readline():
                if line.startswith(b"data: {"):
                    take(json.loads(line[6:]))
                elif line.startswith(b"{"):
                    last = line.strip()
            return int(first[1]), last.decode(errors="replace")
        finally:
            writer.close()
