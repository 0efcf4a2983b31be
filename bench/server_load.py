"""`wavefold serve` under load: what HTTP costs, what crowds cost others, and an hour of clients that behave badly.

    python bench/server_load.py rate [MODEL]    tokens/s of 16 streams through HTTP, beside the engine alone
    python bench/server_load.py crowd [MODEL]   time between tokens beside 2,000 idle connections and 200 slow readers
    python bench/server_load.py soak            ten times what the server takes for an hour: clients that vanish, huge
                                                bodies, malformed JSON, slow heads and bodies; then memory, and who got
                                                what

The server is a process of its own, on the kernels' own number of threads; clients share one event loop here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.server.asking import ask  # noqa: E402
from wavefold import LLM, Sampling  # noqa: E402
from wavefold.server.run import more_files  # noqa: E402

PATH = "/v1/completions"
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


HUGE = b"[" * 20_000_000


class Place(NamedTuple):
    """A server that runs."""

    port: int
    pid: int

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    @property
    def rss_bytes(self) -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
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
    drained = kept_lines(process)
    try:
        yield Place(int(found[1]), process.pid)
        process.terminate()
        if process.wait(120):
            raise SystemExit(f"the server ended with {process.returncode}:\n{''.join(drained[-20:])}")
    finally:
        process.kill()


def kept_lines(process: subprocess.Popen[str]) -> list[str]:
    """Reads the server's log in a thread, so that it never blocks. Returns the list of its last lines."""
    import threading

    lines: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            del lines[:-200]

    threading.Thread(target=read, daemon=True).start()
    return lines


def body_of(ids: Sequence[int], max_tokens: int, seed: int) -> dict[str, Any]:
    return {"model": "bench", "prompt": list(ids), "max_tokens": max_tokens, "stream": True, "seed": seed,
            "temperature": 1, "logit_bias": {"1": -100}}  # fmt: skip


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[0, *(rng.randrange(100, 3000) for _ in range(length - 1))] for _ in range(count)]


async def gaps_of(port: int, body: dict[str, Any]) -> list[float]:
    """The seconds between the tokens of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data, times = json.dumps(body).encode(), []
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(data)) + data
    )
    while b"[DONE]" not in (line := await reader.readline()):
        assert line, "the stream broke off"
        if line.startswith(b"data: ") and b'"text"' in line:
            times.append(time.perf_counter())
    writer.close()
    return [later - sooner for sooner, later in itertools.pairwise(times)]


# -- what HTTP costs ---------------------------------------------------------------------------------------------------


def rate(args: argparse.Namespace) -> None:
    llm = LLM(args.model, prefix_cache=False)
    engine, http = [], []
    with served(*([str(args.model)] if args.model else [])) as place, llm:
        for turn in range(args.turns):
            ids = prompts(args.streams, args.prompt, turn)
            total = args.streams * args.tokens
            began = time.perf_counter()
            llm.generate(ids, [Sampling(args.tokens, 1.0, seed=n, logit_bias={1: -100}) for n in range(args.streams)])
            engine.append(total / (time.perf_counter() - began))

            async def through_http(ids: list[list[int]]) -> float:
                began = time.perf_counter()
                bodies = [body_of(one, args.tokens, number) for number, one in enumerate(ids)]
                await asyncio.gather(*(ask(place.port, PATH, body) for body in bodies))
                return time.perf_counter() - began

            http.append(total / asyncio.run(through_http(ids)))
            print(f"turn {turn}: engine {engine[-1]:.1f}, HTTP {http[-1]:.1f} tokens/s", flush=True)
    ratios = [two / one for one, two in zip(engine, http, strict=True)]
    print(f"{args.streams} streams of {args.tokens} tokens, medians of {args.turns}: engine "
          f"{statistics.median(engine):.1f}, HTTP {statistics.median(http):.1f} tokens/s; ratio "
          f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip


# -- what crowds cost others -------------------------------------------------------------------------------------------


def crowd(args: argparse.Namespace) -> None:
    more_files()
    with served(*([str(args.model)] if args.model else []), "--max-queue", "1000") as place:

        async def gaps(seed: int) -> list[float]:
            bodies = [body_of(ids, args.tokens, number) for number, ids in enumerate(prompts(8, args.prompt, seed))]
            found = await asyncio.gather(*(gaps_of(place.port, body) for body in bodies))
            return sorted(gap for one in found for gap in one)

        async def measured() -> None:
            alone = [await gaps(turn) for turn in range(args.turns)]
            idle = [await asyncio.open_connection("127.0.0.1", place.port) for _ in range(args.idle)]
            for _, writer in idle:
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            for reader, _ in idle:
                await reader.readuntil(b"}")
            slow = [slow_reader(place.port, number) for number in range(args.slow)]
            while place.value("wavefold_requests_running") > 0:
                await asyncio.sleep(0.5)
            beside = [await gaps(100 + turn) for turn in range(args.turns)]
            for _, writer in idle:
                writer.close()
            for connection in slow:
                connection.close()
            for name, found in (("alone", alone), ("beside the crowd", beside)):
                values = [one[int(len(one) * 0.99)] * 1e3 for one in found]
                middle = statistics.median(one[len(one) // 2] for one in found) * 1e3
                print(f"{name}: p99 between tokens {statistics.median(values):.2f} ms ({min(values):.2f} to "
                      f"{max(values):.2f}), p50 {middle:.2f} ms")  # fmt: skip

        asyncio.run(measured())


def slow_reader(port: int, number: int) -> socket.socket:
    """A client that reads nothing of its answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    data = json.dumps(body_of([0, 5, 6], 150, number)).encode()
    connection.sendall(HEAD % len(data) + data)
    return connection


# -- clients that behave badly -----------------------------------------------------------------------------------------


async def one_client(port: int, rng: random.Random, seen: Counter[str]) -> None:
    """One request of a kind, good or bad."""
    kind = rng.choices(("good", "whole", "leaves", "huge", "malformed", "slow head", "slow body"),
                       (40, 20, 20, 4, 8, 4, 4))[0]  # fmt: skip
    ids = prompts(1, rng.randrange(2, 200), rng.randrange(200))[0]
    body = body_of(ids, rng.randrange(1, 60), 1)
    try:
        if kind == "leaves":
            await ask(port, PATH, body, leave_after=rng.randrange(2000))
            seen["left"] += 1
        elif kind.startswith("slow"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n"
            writer.write(head if kind == "slow head" else head + b"\r\n{")
            await asyncio.wait_for(reader.read(), 90)  # it is cut off, or told
            writer.close()
            seen[kind] += 1
        else:
            sent: Any = {**body, "stream": kind == "good"}
            if kind == "huge":
                sent = HUGE
            elif kind == "malformed":
                sent = b'{"model": "bench", "prompt": ' + rng.randbytes(200)
            answer = await ask(port, PATH, sent)
            assert answer is not None
            if answer.status == 200:
                ended = b"[DONE]" in answer.data if kind == "good" else "usage" in answer.json
                seen[f"{kind}: {'answered' if ended else 'BROKEN OFF'}"] += 1
            else:
                seen[f"{kind}: {answer.status} {answer.json['error']['code']}"] += 1
                if answer.status in (429, 503):
                    await asyncio.sleep(rng.random() * 2)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        seen[f"{kind}: {type(error).__name__}"] += 1
    except asyncio.TimeoutError:
        seen[f"{kind}: NOT CUT OFF"] += 1


async def badly(port: int, seconds: float, clients: int, seed: int) -> Counter[str]:
    """So many clients at a time, each after the other, for so long. Returns what became of their requests."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            await one_client(port, rng, seen)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen


def soak(args: argparse.Namespace) -> None:
    more_files()
    arguments = ["--cache-tokens", "16384", "--max-queue", "64", *([str(args.model)] if args.model else [])]
    with served(*arguments) as place:
        asyncio.run(badly(place.port, min(600.0, args.seconds / 4), args.clients, 0))  # fills pool and caches
        before = settled(place)
        seen: Counter[str] = Counter()
        parts = max(1, round(args.seconds / 300))
        for part in range(parts):
            seen += asyncio.run(badly(place.port, args.seconds / parts, args.clients, 1 + part))
            after = settled(place)
            print(f"part {part + 1} of {parts}: {sum(seen.values()):,} requests, {after / 2**20:.1f} MiB", flush=True)
        for name, count in sorted(seen.items()):
            print(f"{count:9,} {name}")
        print(f"{sum(seen.values()):,} requests of {args.clients} clients in {args.seconds:.0f} s; resident memory "
              f"{before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after ({after / before:.3f})")  # fmt: skip
        wrong = [name for name in seen if "BROKEN" in name or "NOT CUT" in name or ": 500" in name]
        if wrong or after > before * 1.05:
            raise SystemExit(f"wrong: {', '.join(wrong) or 'memory'}")


def settled(place: Place) -> int:
    """Resident bytes once nothing runs."""
    while place.value("wavefold_requests_running") + place.value("wavefold_requests_waiting") > 0:
        time.sleep(0.2)
    time.sleep(2)
    return place.rss_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rate", "crowd", "soak"))
    parser.add_argument("model", nargs="?", type=Path, help="a checkpoint (default: the model that ships)")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of an answer")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--clients", type=int, default=800, help="of the soak: ten times what the server takes")
    parser.add_argument("--seconds", type=float, default=3600.0)
    args = parser.parse_args()
    {"rate": rate, "crowd": crowd, "soak": soak}[args.part](args)


if __name__ == "__main__":
    main()
