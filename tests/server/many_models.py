"""Several models behind one server, asked at random: each answers as it does alone, and the budget holds.

    python -m tests.server.many_models --requests 2000 --models 6 --adapters 10 --experts 8 --memory 700M [--folder DIR]

Random models of one architecture with weights of their own, and random adapters of them. Their answers are computed
before, one model after another, batch-invariant. Then a server has a budget that holds some of them. Requests come in
bursts for models drawn by Zipf's law; some clients leave, models are loaded and unloaded by hand, pool.toml pins
another one now and then. An observer reads the server's resident memory 100 times a second. Ends with 1 where an answer
differs, of which it says whose it is, or memory was above it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.adapters import write_adapter
from tests.server.asking import ask
from wavefold import LLM, ModelConfig, Sampling, ops, random_checkpoint
from wavefold.locate import DEFAULT_MODEL
from wavefold.system.sizes import bytes_of, gib

PROMPTS = [f"def f{number}({', '.join('abc'[: number % 4])}):\n    return" for number in range(24)]
TOKENS = 12
PERIOD_S = 0.01


def make_models(folder: Path, count: int, experts: int) -> list[str]:
    """Writes random models of the nano preset, with so many experts and the shipped model's tokenizer."""
    config = ModelConfig.preset("nano").replace(n_routed_experts=experts)
    names = [f"model{number}" for number in range(count)]
    for seed, name in enumerate(names):
        if not (folder / name).exists():
            random_checkpoint(config, folder / name, seed)
            for file in DEFAULT_MODEL.glob("tokenizer*.json"):
                shutil.copy(file, folder / name)
    return names


def make_adapters(folder: Path, names: list[str], count: int) -> list[str]:
    """Writes random adapters, of one model after another. Returns the names by which they are asked for."""
    adapters = []
    for number in range(count):
        base = names[number % len(names)]
        config = ModelConfig.from_file(folder / base)
        write_adapter(folder / f"adapter{number}", config, number, rank=8, base_model_name_or_path=base)
        adapters.append(f"{base}:adapter{number}")
    return adapters


def answers_alone(folder: Path, names: list[str], adapters: list[str]) -> dict[tuple[str, str], str]:
    """Returns the answers to all prompts of each model, and through each adapter."""
    texts = {}
    for name in names:
        of_it = {other: folder / other.partition(":")[2] for other in adapters if other.startswith(f"{name}:")}
        with ops.using(backend="auto"), LLM(folder / name, batch_invariant=True, adapters=of_it) as llm:
            for adapter in (None, *of_it):
                completions = llm.generate(PROMPTS, Sampling(max_tokens=TOKENS, temperature=0), adapter=adapter)
                texts |= {(adapter or name, prompt): one.text for prompt, one in zip(PROMPTS, completions, strict=True)}
    return texts


class Observer(threading.Thread):
    """Reads the resident bytes of a process, again and again."""

    def __init__(self, process_id: int, budget: int):
        super().__init__(daemon=True)
        self._path, self._budget = Path(f"/proc/{process_id}/status"), budget
        self.num_looks = self.num_above = self.most = 0
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            try:
                found = re.search(r"VmRSS:\s+(\d+) kB", self._path.read_text())
            except OSError:
                return
            size = int(found[1]) * 1024 if found else 0
            self.num_looks += 1
            self.num_above += size > self._budget
            self.most = max(self.most, size)
            time.sleep(PERIOD_S)


async def traffic(
    port: int, folder: Path, names: list[str], expected: dict[tuple[str, str], str], count: int, draws: random.Random
) -> Counter[str]:  # fmt: skip
    """Asks `count` requests in bursts. Returns what came of them."""
    outcomes: Counter[str] = Counter()
    weights = [1 / (place + 1) for place in range(len(names))]

    async def one() -> None:
        [name] = draws.choices(names, weights)
        prompt, leaves = draws.choice(PROMPTS), draws.random() < 0.08
        body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": leaves}
        answer = await ask(port, "/v1/completions", body, leave_after=draws.choice((0, 200)) if leaves else None)
        if answer is None:
            outcomes["left"] += 1
        elif answer.status != 200:
            outcomes[f"status {answer.status}"] += 1
        else:
            is_equal = answer.json["choices"][0]["text"] == expected[name, prompt]
            outcomes["equal" if is_equal else "different"] += 1
            if not is_equal:
                got = answer.json["choices"][0]["text"]
                whose = [key[0] for key, text in expected.items() if key[1] == prompt and text == got]
                print(f"{name}, {prompt!r}: {got!r}, expected {expected[name, prompt]!r}; the answer of {whose}")

    async def by_hand() -> None:
        name, way = draws.choice(names), draws.choice(("load", "unload"))
        answer = await ask(port, f"/v1/wavefold/models/{way}", {"model": name})
        outcomes[f"{way}: {answer.status if answer else 'none'}"] += 1

    began = time.monotonic()
    while (done := sum(outcomes[key] for key in outcomes if ":" not in key)) < count:
        if draws.random() < 0.1:
            pinned = draws.choice([None, *(name for name in names if ":" not in name)])
            (folder / "pool.toml").write_text(f"[models.{pinned}]\npin = true\n" if pinned else "")
        jobs: list[Any] = [one() for _ in range(min(count - done, draws.choice((1, 2, 4, 8, 16, 32))))]
        await asyncio.gather(*jobs, *[by_hand() for _ in range(draws.random() < 0.2)])
        left_s = (time.monotonic() - began) / max(1, done) * (count - done)
        print(f"\r{done} of {count}, {left_s:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--adapters", type=int, default=0)
    parser.add_argument("--experts", type=int, default=8, help="of each layer (default 8); 64 make 45 MB a model")
    parser.add_argument("--memory", default="700M")
    parser.add_argument("--folder", type=Path, help="where models are made and kept (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        names = make_models(folder, args.models, args.experts)
        adapters = make_adapters(folder, names, args.adapters)
        expected = answers_alone(folder, names, adapters)
        command = [sys.executable, "-m", "wavefold", "serve", "--models", str(folder), "--memory", args.memory,
                   "--batch-invariant", "--port", "0", "--cache-tokens", "4096", "--max-queue", "200"]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            address = re.search(r"http://127\.0\.0\.1:(\d+)", first := server.stderr.readline())
            assert address is not None, first
            threading.Thread(target=server.stderr.read, daemon=True).start()
            observer = Observer(server.pid, bytes_of(args.memory))
            observer.start()
            began, draws = time.monotonic(), random.Random(args.seed)
            port = int(address[1])
            outcomes = asyncio.run(traffic(port, folder, [*names, *adapters], expected, args.requests, draws))
            seconds = time.monotonic() - began
            listed = asyncio.run(_get(port, "/v1/wavefold/models"))
            observer.is_over = True
            server.terminate()
    print(json.dumps(dict(sorted(outcomes.items()))))
    print(f"{seconds:.1f} s, {listed['loads']} loads; most resident {gib(observer.most)} of {args.memory}, "
          f"{observer.num_above} of {observer.num_looks} looks above")  # fmt: skip
    wrong = outcomes["different"] + sum(n for key, n in outcomes.items() if key.startswith("status"))
    return int(bool(wrong or observer.num_above))


async def _get(port: int, path: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])


if __name__ == "__main__":
    sys.exit(main())
