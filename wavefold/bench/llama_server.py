"""llama.cpp's own server in a process beside this one, asked over HTTP; it stands still between turns (SIGSTOP).

Each wait has a limit: a server that does not answer is an error, not a run that hangs.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")

READY_S = 300
HEALTH_S = 10
ANSWER_S = 3600.0
"""Of all answers that are asked for at once, unless another limit is given."""
SPARE_TOKENS = 64
"""Of a slot, beside those of a request."""

LARGEST_LINE = 1 << 26
"""Bytes of a line of an answer: some 200 for each token of which a probability is told."""


class Completed(NamedTuple):
    """An answer: seconds until all of it was there, and how many tokens of its prompt were computed."""

    seconds: float
    computed: int


class LlamaServer:
    """Owns the process. Close it, or use it in a `with`. Who asks gets a ValueError for what the server refuses."""

    name = "llama.cpp"

    def __init__(
        self, program: str, gguf: Path, num_slots: int, slot_tokens: int, num_threads: int,
        options: Sequence[str] = (), limit_s: float = ANSWER_S,
    ):  # fmt: skip
        """`num_slots` requests of at most `slot_tokens` tokens run at once. `options`: more of its command line.

        Raises ValueError if it does not start. Nobody waits longer than `limit_s` for an answer.
        """
        self._limit_s = limit_s
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        threads, context = str(num_threads), num_slots * (slot_tokens + SPARE_TOKENS)
        command = [
            program, "-m", str(gguf), "-t", threads, "-tb", threads, "-np", str(num_slots), "-c", str(context),
            "--host", "127.0.0.1", "--port", str(self._port), *options, "--no-ui",
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

        No end ends an answer, and no prompt is kept.
        """
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
            nonlocal began
            began = time.perf_counter()
            await asyncio.gather(*(ask_one(number, ids) for number, ids in enumerate(prompts)))

        self._awake(ask_all())
        return times

    def complete(self, prompt: list[int], new: int) -> Completed:
        """Sends one prompt for `new` of the most likely tokens. A slot whose text begins like it goes on from there."""
        fields = {"prompt": prompt, "n_predict": new, "ignore_eos": True, "temperature": 0.0, "cache_prompt": True}
        seconds, answer = self._post("/completion", fields)
        return Completed(seconds, int(answer["timings"]["prompt_n"]))

    def likelihoods(self, prompt: list[int], new: int, vocabulary: int) -> tuple[list[int], list[dict[int, float]]]:
        """Returns up to `new` of the most likely tokens, and before each the log probabilities of all tokens by id."""
        fields = {"prompt": prompt, "n_predict": new, "temperature": 0.0, "n_probs": vocabulary, "return_tokens": True,
                  "cache_prompt": False}  # fmt: skip
        answer = self._post("/completion", fields)[1]
        steps = (step["top_logprobs"] for step in answer["completion_probabilities"])
        return answer["tokens"], [{one["id"]: one["logprob"] for one in step} for step in steps]

    def save_slot(self, name: str, slot: int = 0) -> float:
        """Writes a slot to the file `name` in the folder of the option --slot-save-path. Returns the seconds."""
        return self._post(f"/slots/{slot}?action=save", {"filename": name})[0]

    def restore_slot(self, name: str, slot: int = 0) -> float:
        """Reads a slot that was saved. Returns the seconds."""
        return self._post(f"/slots/{slot}?action=restore", {"filename": name})[0]

    def _post(self, path: str, fields: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Returns the seconds until the answer, and it."""

        async def post() -> tuple[float, int, str]:
            began = time.perf_counter()
            status, rest = await self._exchange("POST", path, json.dumps(fields).encode())
            return time.perf_counter() - began, status, rest

        seconds, status, rest = self._awake(post())
        if status != 200:
            raise ValueError(f"{self.name}: status {status}: {rest}")
        return seconds, json.loads(rest)

    def _awake(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs `work` while the server runs."""

        async def limited() -> Result:
            return await asyncio.wait_for(work, self._limit_s)

        self._process.send_signal(signal.SIGCONT)
        try:
            return asyncio.run(limited())
        except TimeoutError:
            raise ValueError(f"{self.name}: no answer after {self._limit_s:g} seconds") from None
        except OSError as error:
            raise ValueError(f"{self.name}: cannot be asked: {error}") from None
        finally:
            self._process.send_signal(signal.SIGSTOP)

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
                if (await asyncio.wait_for(self._exchange("GET", "/health"), HEALTH_S))[0] == 200:
                    return
            except OSError:  # also TimeoutError
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
        raise ValueError(f"{self.name}: was not ready after {READY_S} seconds")

    async def _exchange(
        self, method: str, path: str, body: bytes = b"", take: Callable[[dict[str, Any]], None] = lambda event: None
    ) -> tuple[int, str]:
        """Sends one request and calls `take` with each event as it comes. Returns the status and the last JSON."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LARGEST_LINE)
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
