"""Ten times the clients that a server takes, many of which behave badly: what became of them, and of its memory.

    python bench/server_load.py soak [MODEL] [--seconds 3600] [--clients 800] [--mute 16]

good         a stream that is read, or a whole answer
left         a client that goes amid its stream
huge         a body of 20 MB        malformed   JSON that is none
slow head    a head, or a body, that never comes to its end
mute         a long stream of which nothing is ever read: it is to be cut off
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serving import HEAD, PATH, Place, body_of, prompts, served

from tests.server.asking import ask
from wavefold.server.connection import STALL_S
from wavefold.server.run import more_files

HUGE = b"[" * 20_000_000
KINDS = {"good": 40, "whole": 20, "leaves": 20, "huge": 4, "malformed": 8, "slow head": 4, "slow body": 4}
PATIENCE_S = STALL_S + 120
"""After its first byte a mute client has 64 kB within a minute or two, and is cut off `STALL_S` after them."""
REFUSALS = (429, 503)


async def one_client(port: int, kinds: Sequence[str], rng: random.Random, seen: Counter[str]) -> None:
    """One request of a kind, good or bad."""
    kind = rng.choices(kinds, [KINDS[kind] for kind in kinds])[0]
    body = body_of(prompts(1, rng.randrange(2, 200), rng.randrange(200))[0], rng.randrange(1, 60), 1)
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
            seen[f"{kind}: cut off"] += 1
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
                if answer.status in REFUSALS:
                    await asyncio.sleep(rng.random() * 2)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        seen[f"{kind}: {type(error).__name__}"] += 1
    except asyncio.TimeoutError:
        seen[f"{kind}: NOT CUT OFF"] += 1


async def mute_client(port: int, number: int, end: float, seen: Counter[str]) -> None:
    """A client that reads nothing of a long stream, until it is cut off, or leaves at the end."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, ("127.0.0.1", port))
            data = json.dumps(body_of([0, 5, 6], 1500, number, logprobs=5)).encode()
            await loop.sock_sendall(connection, HEAD % len(data) + data)
            answered = 0.0  # the time of its first byte: before it the request may wait in the queue
            while (now := time.monotonic()) <= end:
                await asyncio.sleep(1)
                if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, "cut off")
                head = _head(connection)
                if head and not head.endswith(b"200"):
                    seen[f"mute: {head[-3:].decode('latin-1')}"] += 1
                    return
                answered = answered or (now if head else 0.0)
                if answered and now - answered > PATIENCE_S:
                    seen["mute: NOT CUT OFF"] += 1
                    return
            seen["mute: left at the end"] += 1
        except OSError as error:
            is_reset = error.errno in (errno.ECONNRESET, errno.EPIPE)
            seen["mute: cut off" if is_reset else f"mute: {type(error).__name__}"] += 1


def _head(connection: socket.socket) -> bytes:
    """Returns the beginning of an answer, up to its status, which stays unread; nothing before it comes."""
    try:
        return connection.recv(12, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


async def badly(port: int, args: argparse.Namespace, seconds: float, seed: int) -> Counter[str]:
    """Clients, each with one request after the other, for so long. Returns what became of their requests."""
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        while time.monotonic() < end:
            await one_client(port, args.kinds, rng, seen)

    async def mute(number: int) -> None:
        while time.monotonic() < end:
            await mute_client(port, number, end, seen)
            await asyncio.sleep(1)

    await asyncio.gather(*map(client, range(args.clients)), *map(mute, range(args.mute)))
    return seen


def soak(args: argparse.Namespace) -> None:
    """Prints what became of the requests and of the memory. Raises SystemExit for what should not be."""
    more_files()
    arguments = ["--cache-tokens", "16384", "--max-queue", "64", *([str(args.model)] if args.model else [])]
    with served(*arguments) as place:
        fresh = settled(place)
        seen = asyncio.run(badly(place.port, args, min(600.0, args.seconds / 4), 0))  # fills pool and caches
        before, seconds = settled(place), args.seconds
        print(f"after the warm-up: {sum(seen.values()):,} requests, {mib(before)} ({mib(fresh)} at first)", flush=True)
        parts = max(1, round(args.seconds / 300))
        after = before
        for part in range(parts):
            seen += asyncio.run(badly(place.port, args, seconds / parts, 1 + part))
            after = settled(place)
            print(f"part {part + 1} of {parts}: {sum(seen.values()):,} requests, {mib(after)}", flush=True)
        report(place, args, seen, before, after)
    print("the server ended with 0")


def report(place: Place, args: argparse.Namespace, seen: Counter[str], before: int, after: int) -> None:
    for name, count in sorted(seen.items()):
        print(f"{count:9,} {name}")
    broken = {status: count for status, count in place.log.statuses.items() if status >= 500 and status != 503}
    cut_off, mute = seen["mute: cut off"], seen["mute: cut off"] + seen["mute: NOT CUT OFF"]
    print(f"{sum(seen.values()):,} requests of {args.clients} + {args.mute} clients, {args.seconds:.0f} s after the "
          f"warm-up; crashes: {int(place.process.poll() is not None)}; lines of faults in the log: {place.log.faults}; "
          f"5xx: {sum(broken.values())}, beside {place.log.statuses[503]:,} refusals with 503")  # fmt: skip
    print(f"memory: {mib(before)} at the start, {mib(after)} at the end ({after / before - 1:+.1%}); "
          f"clients that read nothing: {cut_off} of {mute} cut off")  # fmt: skip
    wrong = [name for name in seen if "BROKEN" in name or "NOT CUT" in name or ": 500" in name]
    wrong += [f"{count} answers with {status}" for status, count in broken.items()]
    wrong += ["memory"] if after > before * 1.05 else []
    wrong += [f"{place.log.faults} faults in the log:\n{''.join(place.log.last)}"] if place.log.faults else []
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


def mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def settled(place: Place) -> int:
    """Resident bytes once nothing runs."""
    while place.value("wavefold_requests_running") + place.value("wavefold_requests_waiting") > 0:
        time.sleep(0.2)
    time.sleep(2)
    return place.rss_bytes
