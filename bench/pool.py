"""Several models behind one server beside llama.cpp's router, on the same models and requests, in turns within one run.

    python bench/pool.py make DIR [--models 6] [--gib 2]        random models as folders, and as GGUF files in DIR/gguf
    python bench/pool.py run DIR --llama-server PROGRAM [--requests 200] [--fit 2] [--turns 2] [--out FILE]

Requests name models by Zipf's law, in bursts of up to eight at a time, greedy, 16 tokens. Both servers may have `--fit`
models in memory: llama.cpp by --models-max, ours by a budget of so many. Our loads are counted, and beside them the
least that a router has to load that keeps the last `--fit`. A server stands still while the other has its turn. `make`
needs twice the models' size on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wavefold import ModelConfig, random_checkpoint
from wavefold.bench.circumstances import append, circumstances
from wavefold.cli.main import main as wavefold
from wavefold.engine.budget import OVERHEAD
from wavefold.locate import DEFAULT_MODEL
from wavefold.pool.folder import entries
from wavefold.pool.settings import ModelSettings
from wavefold.server.opening import Opening

CACHE_TOKENS, TOKENS, PROMPT = 4096, 16, 96
BASE = 320 << 20
"""Bytes of our process without a model, about."""


def make(args: argparse.Namespace) -> None:
    """Random models whose routed experts are most of them."""
    config = ModelConfig.preset("nano").replace(hidden_size=1024, moe_intermediate_size=1024, num_attention_heads=4)
    expert = 3 * config.hidden_size * config.moe_intermediate_size * 17 // 32
    experts = max(8, int(args.gib * 2**30 / expert / (config.num_hidden_layers + 1)))
    config = config.replace(n_routed_experts=experts)
    (args.folder / "gguf").mkdir(parents=True, exist_ok=True)
    for number in range(args.models):
        folder = args.folder / f"model{number}"
        if not folder.exists():
            random_checkpoint(config, folder, number)
            for file in DEFAULT_MODEL.glob("tokenizer*.json"):
                shutil.copy(file, folder)
        wavefold(["convert", str(folder), str(args.folder / "gguf" / f"model{number}.gguf")])
        print(f"{folder}: there", flush=True)


class Place:
    """A server, and the port that it listens on."""

    def __init__(self, command: Sequence[str], pattern: str, timeout_s: float = 60.0):
        self.process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
        self.words: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.words.append(line)
            if found := re.search(pattern, line):
                self.port = int(found[1])
                break
        else:
            raise ValueError(f"{command[0]} ended: {''.join(self.words[-5:])}")
        threading.Thread(target=lambda: self.words.extend(self.process.stdout), daemon=True).start()  # type: ignore[arg-type]

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(60)


def drawn(args: argparse.Namespace, names: Sequence[str], turn: int) -> list[list[tuple[str, list[int]]]]:
    """Bursts of (model, prompt)."""
    draws, left, bursts = random.Random(f"{args.seed} {turn}"), args.requests, []
    weights = [1 / (place + 1) for place in range(len(names))]
    while left:
        size = min(left, draws.choice((1, 1, 2, 4, 8)))
        bursts.append(
            [(name, draws.choices(range(100, 3000), k=PROMPT)) for name in draws.choices(names, weights, k=size)]
        )
        left -= size
    return bursts


def ask(port: int, name: str, ids: list[int]) -> int:
    """The tokens that an answer has."""
    body = {"model": name, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "logit_bias": {"1": -100}}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})  # fmt: skip
    with urllib.request.urlopen(request, timeout=600) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


async def seconds_of(port: int, bursts: list[list[tuple[str, list[int]]]]) -> float:
    """The time in which all bursts were answered, one after another."""
    began = time.perf_counter()
    for burst in bursts:
        counts = await asyncio.gather(*(asyncio.to_thread(ask, port, name, ids) for name, ids in burst))
        if any(count != TOKENS for count in counts):
            raise ValueError(f"answers of {counts} tokens came; expected {TOKENS}")
    return time.perf_counter() - began


def least_loads(bursts: list[list[tuple[str, list[int]]]], fit: int) -> int:
    """Loads of a router that keeps the last `fit` models, where a burst's requests are answered model by model."""
    kept, loads = OrderedDict[str, None](), 0
    for burst in bursts:
        for name in dict.fromkeys(name for name, _ in burst):
            loads += name not in kept
            kept[name] = None
            kept.move_to_end(name)
            if len(kept) > fit:
                kept.popitem(last=False)
    return loads


@contextlib.contextmanager
def servers(args: argparse.Namespace) -> Iterator[dict[str, Place]]:
    opening = Opening("released", 8, CACHE_TOKENS)
    need = max(
        opening.needs(entry, ModelSettings()).whole for entry in entries(args.folder).values() if not entry.fault
    )
    memory = BASE + OVERHEAD + int((args.fit + 0.3) * need)
    threads = str(args.threads)
    ours = [sys.executable, "-m", "wavefold", "serve", "--models", str(args.folder), "--memory", str(memory),
            "--port", "0", "--cache-tokens", str(CACHE_TOKENS), "--width", "8", "--threads", threads]  # fmt: skip
    theirs = [args.llama_server, "--models-dir", str(args.folder / "gguf"), "--models-max", str(args.fit),
              "--port", "18088", "-t", threads, "-tb", threads, "-c", str(CACHE_TOKENS), "-np", "8",
              "--no-warmup"]  # fmt: skip
    with contextlib.ExitStack() as stack:
        found = {}
        for name, command, pattern in (("ours", ours, r"http://127\.0\.0\.1:(\d+)"),
                                       ("llama.cpp", theirs, r"listening on http://127\.0\.0\.1:(\d+)")):  # fmt: skip
            found[name] = Place(command, pattern)
            stack.callback(found[name].close)
        yield found


def run(args: argparse.Namespace) -> None:
    names = [name for name, entry in entries(args.folder).items() if entry.kind == "official"]
    lines: list[dict[str, Any]] = []
    with servers(args) as places:
        for turn in range(args.turns):
            bursts, line = drawn(args, names, turn), {"turn": turn}
            for name in list(places)[:: -1 if turn % 2 else 1]:
                for other in places.values():
                    other.process.send_signal(signal.SIGCONT if other is places[name] else signal.SIGSTOP)
                line[name] = round(asyncio.run(seconds_of(places[name].port, bursts)), 2)
            places["ours"].process.send_signal(signal.SIGCONT)
            with urllib.request.urlopen(f"http://127.0.0.1:{places['ours'].port}/v1/wavefold/models") as answer:
                line["loads so far"] = json.load(answer)["loads"]
            line["least loads"], line["ratio"] = (
                least_loads(bursts, args.fit),
                round(line["ours"] / line["llama.cpp"], 3),
            )
            print(line, flush=True)
            lines.append(line)
    if args.out:
        about = circumstances(args.turns) | {"bench": "pool", "requests": args.requests, "fit": args.fit}
        append(args.out, [about | line for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("make")
    making.add_argument("--models", type=int, default=6)
    making.add_argument("--gib", type=float, default=2.0, help="of each model's routed experts (default 2)")
    running = actions.add_parser("run")
    running.add_argument("--llama-server", required=True)
    running.add_argument("--requests", type=int, default=200)
    running.add_argument("--fit", type=int, default=2)
    running.add_argument("--turns", type=int, default=2)
    running.add_argument("--threads", type=int, default=2)
    running.add_argument("--seed", type=int, default=1)
    running.add_argument("--out", type=Path)
    for action in (making, running):
        action.add_argument("folder", type=Path)
    args = parser.parse_args()
    (make if args.action == "make" else run)(args)


if __name__ == "__main__":
    main()
