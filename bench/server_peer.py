"""Requests that are sent all at once through HTTP, beside llama.cpp's server, in turns within one run.

    python bench/server_load.py peer MODEL --llama-server PROGRAM --gguf FILE [--requests 1 4 16] [--prompt 256]
        [--tokens 64] [--turns 3] [--threads 2] [--out FILE]

Prompts are random ids, tokens the most likely ones, and no end ends an answer. A server stands still (SIGSTOP) while
the other has its turn. Prints medians over turns, and appends JSON lines to --out. The engine's own figures, without
HTTP on our side, are those of many_requests.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from many_requests import prompts_of
from rich.console import Console
from rich.table import Table
from serving import HEAD, Place, body_of, served

from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.llama_server import LlamaServer
from wavefold.locate import config_of

Figures = dict[str, float]
Ask = Callable[[list[list[int]]], list[list[float]]]
OURS, PEER = "ours", LlamaServer.name
COLUMNS = {
    "tokens/s": "tokens_per_s",
    "first, s": "first_s",
    "largest, s": "first_most_s",
    "stands still, s": "still_s",
}


def figures_of(times: Sequence[Sequence[float]], new: int) -> Figures:
    """The figures of requests for `new` tokens, from the seconds at which something of each of them came."""
    first = [of_one[0] for of_one in times]
    return {
        "tokens_per_s": new * len(times) / max(of_one[-1] for of_one in times),
        "first_s": statistics.median(first), "first_most_s": max(first),
        "still_s": max(later - sooner for one in times for sooner, later in itertools.pairwise([*one, one[-1]])),
    }  # fmt: skip


async def times_of(port: int, ids: list[int], new: int, began: float) -> list[float]:
    """The seconds at which events of our server's answer came. Raises ValueError for one that is no `new` tokens."""
    options = {"temperature": 0, "stream_options": {"include_usage": True}}
    data, times, usage = json.dumps({**body_of(ids, new, 0), **options}).encode(), [], 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD % len(data) + data)
    line = b""
    while b"[DONE]" not in line:
        line = await reader.readline()
        if not line:
            raise ValueError("the stream of our server broke off")
        if b'"choices":[{' in line:
            times.append(time.perf_counter() - began)
        elif b'"usage":{' in line:
            usage = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
    writer.close()
    if usage != new:
        raise ValueError(f"an answer of {usage} tokens came; expected {new}")
    return times


def ask_ours(place: Place, prompts: list[list[int]], new: int) -> list[list[float]]:
    async def all_of_them() -> list[list[float]]:
        began = time.perf_counter()
        return await asyncio.gather(*(times_of(place.port, ids, new, began) for ids in prompts))

    with awake(place):
        return asyncio.run(all_of_them())


@contextlib.contextmanager
def awake(place: Place) -> Iterator[None]:
    place.process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        place.process.send_signal(signal.SIGSTOP)


def peer(args: argparse.Namespace) -> None:
    vocab, lines = config_of(args.model).vocab_size, list[dict[str, Any]]()
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(served(str(args.model), "--threads", str(args.threads)))
        stack.callback(place.process.send_signal, signal.SIGCONT)
        asks: dict[str, Ask] = {OURS: lambda prompts: ask_ours(place, prompts, args.tokens)}
        if args.llama_server:
            place.process.send_signal(signal.SIGSTOP)
            sizes = max(args.requests), args.prompt + args.tokens
            server = stack.enter_context(LlamaServer(args.llama_server, args.gguf, *sizes, args.threads))
            asks[PEER] = lambda prompts: server.ask(prompts, args.tokens)
        for ask in asks.values():
            ask(prompts_of(args, 1, vocab, -1))  # touches the weights
        for count, turn in itertools.product(args.requests, range(args.turns)):
            prompts = prompts_of(args, count, vocab, turn)
            line = {name: figures_of(asks[name](prompts), args.tokens) for name in list(asks)[:: -1 if turn % 2 else 1]}
            lines.append({"requests": count, "turn": turn} | line)
            rates = ", ".join(f"{name} {figures['tokens_per_s']:.1f}" for name, figures in line.items())
            print(f"{count} requests, turn {turn}: tokens/s {rates}", flush=True)
    about = circumstances(args.turns) | {
        "bench": "server_peer", "model": str(args.model), "prompt": args.prompt, "new": args.tokens,
    }  # fmt: skip
    Console(width=130).print(table(lines, f"{args.prompt} + {args.tokens} tokens through HTTP, {about['hardware']}"))
    if args.out:
        append(args.out, [about | line for line in lines])


def table(lines: list[dict[str, Any]], title: str) -> Table:
    """Rows of medians over turns. The ratio is that of ours over the server's in each turn."""
    shown = Table("requests", "who", *COLUMNS, title=title)
    for count in dict.fromkeys(line["requests"] for line in lines):
        of_count = [line for line in lines if line["requests"] == count]
        for who in (OURS, PEER) if PEER in of_count[0] else (OURS,):
            cells = [f"{statistics.median(line[who][key] for line in of_count):.3g}" for key in COLUMNS.values()]
            shown.add_row(str(count) if who == OURS else "", who, *cells)
        if PEER in of_count[0]:
            ratios = [[line[OURS][key] / max(line[PEER][key], 1e-9) for line in of_count] for key in COLUMNS.values()]
            shown.add_row("", "ratio", *(f"{statistics.median(found):.2f}" for found in ratios))
        shown.add_section()
    return shown
