"""Requests sent all at once: the engine beside llama.cpp's server, in turns within one run.

    python bench/many_requests.py MODEL [--llama-server PROGRAM --gguf FILE] [--requests 1 4 16] [--prompt 256]
        [--new 64] [--turns 1] [--threads 2] [--arithmetic released] [--activations bf16] [--chunk 256] [--out FILE]

Prompts are random ids, tokens the most likely ones, and no end ends an answer. Each engine is a process of its own that
stands still while the other has its turn. The server is asked over HTTP on this machine, with its prompt cache off.
Prints tables of medians over turns, and appends JSON lines to --out:

    tokens/s       new tokens over the whole time, prompts included
    first          seconds until the first token of a request, median and largest
    stands still   the longest that a request waits for its next token; in chunks: as many times the step that reads
                   --chunk tokens of one prompt and nothing else, timed in the same turn
    step           a step in which all requests decode, and the share of it that its bytes, each distinct weight once,
                   or its operations take at the least (memory and dense products measured in the turn, experts counted)
    engine         share of such a step outside the pass: scheduling, choosing tokens, text
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.limits import LimitsMeter
from wavefold.bench.llama_server import LlamaServer
from wavefold.bench.many_requests import StepTime, step_figures, waits
from wavefold.bench.worker import Worker
from wavefold.locate import config_of
from wavefold.ops.threads import use_threads

Figures = dict[str, Any]
OURS, PEER = "ours", LlamaServer.name


def prompts_of(args: argparse.Namespace, count: int, vocab: int, turn: int) -> list[list[int]]:
    drawn = random.Random(turn)
    return [[drawn.randrange(50, vocab) for _ in range(args.prompt)] for _ in range(count)]


def chunk_seconds(args: argparse.Namespace, worker: Worker) -> float:
    """Seconds of a step that reads a chunk of one prompt and nothing else."""
    drawn = random.Random(-1)
    ids = [drawn.randrange(50, worker.greeting["vocab"]) for _ in range(args.chunk)]
    return StepTime(*worker.ask({"prompts": [ids], "new": 1})["steps"][0]).seconds


def our_turn(args: argparse.Namespace, worker: Worker, prompts: list[list[int]], meter: LimitsMeter) -> Figures:
    """The figures of the engine; None for those that this turn has not."""
    limits, chunk_s = meter.measure(), chunk_seconds(args, worker)
    found = worker.ask({"prompts": prompts, "new": args.new})
    figures: Figures = waits(found["times"], args.new)._asdict()
    figures |= {"memory_bytes_per_s": limits.memory, "dense_operations_per_s": dict(limits.dense), "chunk_s": chunk_s,
                "still_chunks": figures["still_s"] and figures["still_s"] / chunk_s}  # fmt: skip
    steps = [StepTime(*step) for step in found["steps"]]
    of_step = step_figures(
        steps, len(prompts), config_of(args.model), args.prompt + args.new // 2, args.arithmetic == "released", limits
    )
    if of_step is not None:
        figures |= of_step._asdict() | {"bound_share": of_step.bound_share}
    return figures


def measure(args: argparse.Namespace) -> list[Figures]:
    """A line for each number of requests and turn: the figures of both."""
    settings = {"model": str(args.model), "threads": args.threads, "arithmetic": args.arithmetic,
                "activations": args.activations, "chunk": args.chunk}  # fmt: skip
    command = [sys.executable, "-m", "wavefold.bench.many_requests_worker", json.dumps(settings)]
    meter, lines = LimitsMeter(args.arithmetic), []
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(Worker(OURS, command, {"OMP_WAIT_POLICY": "PASSIVE"}))
        server = None
        if args.llama_server:
            sizes = max(args.requests), args.prompt + args.new
            server = stack.enter_context(LlamaServer(args.llama_server, args.gguf, *sizes, args.threads))
        chunk_seconds(args, worker)  # touches the weights
        for count in args.requests:
            for turn in range(args.turns):
                print(f"{count} requests, turn {turn + 1} of {args.turns}", file=sys.stderr)
                prompts = prompts_of(args, count, worker.greeting["vocab"], turn)
                turns: dict[str, Callable[[], Figures]] = {OURS: lambda p=prompts: our_turn(args, worker, p, meter)}
                if server is not None:
                    turns[PEER] = lambda p=prompts: waits(server.ask(p, args.new), args.new)._asdict()
                order = list(turns)[:: -1 if turn % 2 else 1]
                lines.append({"requests": count, "turn": turn} | {name: turns[name]() for name in order})
    return lines


def median(lines: list[Figures], who: str, key: str) -> float | None:
    """The median over turns that have the figure; `who` "ratio": of ours over the server's in each turn."""
    values = []
    for line in lines:
        if who == "ratio":
            ours, theirs = line[OURS].get(key), line.get(PEER, {}).get(key)
            values += [ours / theirs] if ours is not None and theirs else []
        elif line.get(who, {}).get(key) is not None:
            values.append(line[who][key])
    return statistics.median(values) if values else None


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens/s": ("tokens_per_s", "{:.2f}".format), "first, s": ("first_s", "{:.1f}".format),
    "largest": ("first_most_s", "{:.1f}".format), "stands still, s": ("still_s", "{:.2f}".format),
    "chunks": ("still_chunks", "{:.2f}".format), "step, ms": ("step_s", lambda seconds: f"{1e3 * seconds:.0f}"),
    "of the bound": ("bound_share", "{:.0%}".format), "engine": ("engine_share", "{:.1%}".format),
}  # fmt: skip


def table(args: argparse.Namespace, lines: list[Figures], title: str) -> Table:
    """Rows of medians; ratios are ours over the server's."""
    shown = Table("requests", "who", *COLUMNS, title=title)
    for count in dict.fromkeys(line["requests"] for line in lines):
        rows = [line for line in lines if line["requests"] == count]
        for who in (OURS, PEER, "ratio") if PEER in rows[0] else (OURS,):
            cells = []
            for key, form in COLUMNS.values():
                value = median(rows, who, key)
                cells.append("" if value is None else f"{value:.2f}" if who == "ratio" else form(value))
            if who == OURS and "bound_by" in rows[0][OURS]:
                cells[-2] += f" {statistics.mode(row[OURS].get('bound_by') for row in rows)}"
            shown.add_row(str(count) if who == OURS else "", who, *cells)
        shown.add_section()
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", help="the program, of a llama.cpp that knows the model")
    parser.add_argument("--gguf", type=Path, help="the model's weights for it")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt (256)")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer (64)")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=256, help="rows of prompts beside decodes (256)")
    parser.add_argument("--arithmetic", choices=("released", "exact"), default="released")
    parser.add_argument("--activations", choices=("bf16", "int8"), default="bf16")
    parser.add_argument("--out", type=Path, help="file to append JSON lines to")
    args = parser.parse_args()
    if args.llama_server and args.gguf is None:
        parser.error("--llama-server needs --gguf, the file of the same weights")
    use_threads(args.threads)
    lines = measure(args)
    about = circumstances(args.turns) | {
        "bench": "many_requests", "model": str(args.model), "prompt": args.prompt, "new": args.new,
        "arithmetic": args.arithmetic, "activations": args.activations, "chunk": args.chunk,
    }  # fmt: skip
    title = f"{args.prompt} + {args.new} tokens, {about['hardware']}, {args.threads} threads"
    Console(width=None if os.isatty(1) else 130).print(table(args, lines, title))
    if args.out:
        append(args.out, [about | line for line in lines])


if __name__ == "__main__":
    main()
