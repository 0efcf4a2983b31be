"""Requests sent all at once: the engine beside llama.cpp's server, in turns within one run.

    python bench/many_requests.py MODEL [--llama-server PROGRAM --gguf FILE] [--requests 1 4 16] [--prompt 256]
        [--new 64] [--turns 1] [--threads 2] [--arithmetic released] [--activations bf16] [--chunk 256] [--out FILE]

Prompts are random ids, tokens the most likely ones, and no end ends an answer. Each engine is a process of its own that
stands still while the other has its turn. The server is asked over HTTP on this machine, with its prompt cache off.
Prints tables of medians over turns, and appends JSON lines to --out:

    tokens/s       new tokens over the whole time, prompts included
    first          seconds until the first token of a request, median and largest
    stands still   the longest that a request waits for its next token, and, of ours, in times of a step with a chunk
    step           a step in which all requests decode, and the share of it that its bytes, each distinct weight once,
                   or its operations take at the least (memory and dense products measured in the turn)
    engine         share of such a step outside the pass: scheduling, choosing tokens, text
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Times = list[list[float]]
"""Seconds from the start to each token, of each request."""


def prompts_of(args: argparse.Namespace, count: int, vocab: int, turn: int) -> list[list[int]]:
    drawn = random.Random(turn)
    return [[drawn.randrange(50, vocab) for _ in range(args.prompt)] for _ in range(count)]


# -- ours ------------------------------------------------------------------------------------------------------------


def serve_worker(settings: dict[str, Any]) -> None:
    """A process with the engine: a line of prompts in, a line of figures out."""
    import torch

    from wavefold.chat import Prompt
    from wavefold.engine import Answer
    from wavefold.engine.open import open_model
    from wavefold.engine.request import Request
    from wavefold.engine.room import pool_blocks
    from wavefold.engine.runner import Runner
    from wavefold.engine.sampling import ResolvedSampling

    torch.set_num_threads(settings["threads"])
    model = open_model(
        Path(settings["model"]), settings["arithmetic"], torch.bfloat16, threads=settings["threads"],
        activations=settings["activations"],
    )  # fmt: skip
    inside: list[tuple[float, int]] = []
    forward = model.forward_step

    def timed(step: Any, *rest: Any) -> Any:
        began = time.perf_counter()
        logits = forward(step, *rest)
        inside.append((time.perf_counter() - began, len(step.tokens)))
        return logits

    model.forward_step = timed  # type: ignore[method-assign]
    print(json.dumps({"vocab": model.config.vocab_size}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        sampling = ResolvedSampling(0.0, 1.0, 0, asked["new"], fit_window=False, eos_ids=())
        answers = [Answer(Prompt(ids), sampling) for ids in asked["prompts"]]
        requests = [Request(n, a.prompt.ids, asked["new"], sampling=a) for n, a in enumerate(answers)]
        blocks = sum(-(-request.peak_tokens // 128) for request in requests)
        runner = Runner(model, max(blocks, pool_blocks(model, 1, None)), chunk_tokens=settings["chunk"])
        inside.clear()
        print(json.dumps(run_requests(runner, requests, inside)), flush=True)


def run_requests(runner: Any, requests: list[Any], inside: list[tuple[float, int]]) -> dict[str, Any]:
    """Times of each request's tokens; of each step its seconds, those inside the pass, its new tokens and its rows.

    `inside` grows by the seconds and rows of each pass.
    """
    began = time.perf_counter()
    for request in requests:
        runner.add(request)
    times: Times = [[] for _ in requests]
    steps: list[tuple[float, float, int, int]] = []
    while not runner.idle:
        before = time.perf_counter()
        outputs = runner.step()
        now = time.perf_counter()
        for output in outputs:
            times[output.request.id] += [now - began] * len(output.tokens)
        steps.append((now - before, *inside[-1], len(outputs)))
    return {"times": times, "steps": steps}


# -- llama.cpp's server ----------------------------------------------------------------------------------------------


class LlamaServer:
    """The server in a process that is stopped between turns. Close it."""

    def __init__(self, args: argparse.Namespace, most: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        context = most * -(-(args.prompt + args.new + 64) // 64) * 64
        command = [
            args.llama_server, "-m", str(args.gguf), "-t", str(args.threads), "-tb", str(args.threads), "-np",
            str(most), "-c", str(context), "--host", "127.0.0.1", "--port", str(self.port), "--no-ui",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(self._ready())
        except BaseException:
            self.close()
            raise
        self.process.send_signal(signal.SIGSTOP)

    async def _ready(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"{self.process.args[0]} ended with {self.process.returncode}")  # type: ignore[index]
            try:
                if b"200" in (await self._lines("GET", "/health", b""))[0]:
                    return
            except (OSError, IndexError):
                pass
            await asyncio.sleep(0.5)
        raise SystemExit("the server was not ready after five minutes")

    async def _lines(self, method: str, path: str, body: bytes, each: Any = None) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = []
        while line := await reader.readline():
            lines.append(line)
            if each is not None and line.startswith(b"data: "):
                each(json.loads(line[6:]))
        writer.close()
        return lines

    def ask(self, prompts: list[list[int]], new: int) -> Times:
        self.process.send_signal(signal.SIGCONT)
        began = time.perf_counter()
        times: Times = [[] for _ in prompts]

        async def one(number: int, ids: list[int]) -> None:
            def came(event: dict[str, Any]) -> None:
                if "error" in event:
                    raise SystemExit(f"llama-server: {event['error']}")
                times[number] += [time.perf_counter() - began] * len(event.get("tokens", []))

            fields = {
                "prompt": ids, "n_predict": new, "stream": True, "ignore_eos": True, "temperature": 0.0,
                "cache_prompt": False, "return_tokens": True,
            }  # fmt: skip
            await self._lines("POST", "/completion", json.dumps(fields).encode(), came)

        async def every() -> None:
            await asyncio.gather(*(one(number, ids) for number, ids in enumerate(prompts)))

        asyncio.run(every())
        self.process.send_signal(signal.SIGSTOP)
        return times

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# -- figures ---------------------------------------------------------------------------------------------------------


def summary(times: Times) -> dict[str, float]:
    """Rates and waits of one turn."""
    gaps = [after - before for each in times for before, after in pairwise(each)]
    first = [each[0] for each in times]
    return {
        "tokens_per_s": sum(map(len, times)) / max(each[-1] for each in times), "first_s": statistics.median(first),
        "first_most_s": max(first), "still_s": max(gaps),
    }  # fmt: skip


def of_steps(steps: list[list[float]], count: int, chunk: int) -> dict[str, float]:
    """Of steps in which all `count` requests decode, and of those with a whole chunk of prompts beside decodes."""
    decodes = [step for step in steps if step[2] == step[3] == count]
    chunks = [step[0] for step in steps if chunk < step[2] <= chunk + count]
    return {
        "step_s": statistics.median(step[0] for step in decodes),
        "engine_share": statistics.median(1 - step[1] / step[0] for step in decodes),
        "chunk_s": statistics.median(chunks) if chunks else float("nan"),
    }


def step_amounts(folder: Path, count: int, past: int, released: bool) -> tuple[float, float]:
    """Bytes and operations that a step of `count` sequences needs at least: each distinct expert read once.

    Experts are taken to be chosen at random.
    """
    from wavefold.bench.speed import decode_bytes
    from wavefold.locate import config_of
    from wavefold.plan.flops import decode_flops
    from wavefold.plan.tensors import tensor_kinds

    config = config_of(folder)
    routed = [kind for kind in tensor_kinds(config) if kind.part == "routed" and kind.active]
    active = sum(kind.bytes * kind.active_values / kind.values for kind in routed)
    share = config.num_experts_per_tok / config.n_routed_experts
    distinct = active / share * (1 - (1 - share) ** count)
    one = decode_bytes(config, past, released)
    weights = decode_bytes(config, 0, released)
    return weights - active + distinct + count * (one - weights), count * decode_flops(config, past).raw


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
    import torch

    from wavefold.bench.limits import LimitsMeter
    from wavefold.bench.worker import Worker

    torch.set_num_threads(args.threads)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(settings)]
    lines = []
    meter = LimitsMeter(args.arithmetic)
    with Worker("wavefold", command, {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}) as ours:
        peer = LlamaServer(args, max(args.requests)) if args.llama_server else None
        try:
            for count in args.requests:
                turns = []
                ours.ask({"prompts": prompts_of(args, count, ours.greeting["vocab"], 0), "new": 2})
                for turn in range(args.turns):
                    print(f"{count} requests, turn {turn + 1} of {args.turns}", file=sys.stderr)
                    limits = meter.measure()
                    prompts = prompts_of(args, count, ours.greeting["vocab"], turn)
                    found = ours.ask({"prompts": prompts, "new": args.new})
                    figures = summary(found["times"]) | of_steps(found["steps"], count, args.chunk)
                    amounts = step_amounts(
                        args.model, count, args.prompt + args.new // 2, args.arithmetic == "released"
                    )
                    bound, figures["bound_by"] = limits.bound(*amounts)
                    figures["bound_share"] = bound / figures["step_s"]
                    turns.append({"ours": figures, "llama.cpp": summary(peer.ask(prompts, args.new)) if peer else {}})
                lines.append({"requests": count, "turns": turns})
        finally:
            if peer:
                peer.close()
    show(lines, args)


def show(lines: list[dict[str, Any]], args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances

    about = circumstances(args.turns) | {
        "bench": "many_requests", "model": str(args.model), "prompt": args.prompt, "new": args.new,
        "arithmetic": args.arithmetic, "activations": args.activations, "chunk": args.chunk,
    }  # fmt: skip
    table = Table("requests", "who", "tokens/s", "first, s", "largest", "stands still, s", "step, ms", "of the bound",
                  "engine")  # fmt: skip
    table.title = f"{args.prompt} + {args.new} tokens, {about['hardware']}, {args.threads} threads"
    for line in lines:
        for who in ("ours", "llama.cpp"):
            turns = [turn[who] for turn in line["turns"] if turn[who]]
            if not turns:
                continue
            median = {
                key: statistics.median(turn[key] for turn in turns)
                for key in turns[0] if key != "bound_by"
            }  # fmt: skip
            cells = [str(line["requests"]), who, f"{median['tokens_per_s']:.2f}", f"{median['first_s']:.1f}",
                     f"{median['first_most_s']:.1f}", f"{median['still_s']:.2f}"]  # fmt: skip
            if who == "ours":
                if median["chunk_s"] == median["chunk_s"]:
                    cells[-1] += f" ({median['still_s'] / median['chunk_s']:.2f} chunks)"
                cells += [f"{1e3 * median['step_s']:.0f}", f"{median['bound_share']:.0%} {turns[0]['bound_by']}",
                          f"{median['engine_share']:.1%}"]  # fmt: skip
            table.add_row(*cells)
    Console(width=None if os.isatty(1) else 130).print(table)
    if args.out:
        append(args.out, [about | line for line in lines])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve_worker(json.loads(sys.argv[2]))
    else:
        main()
