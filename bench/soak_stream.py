"""Mixed work under a budget for minutes or hours, inside a control group: resident memory a hundred times a second.

    python bench/soak_stream.py [MODEL --memory SIZE] [--seconds 120] [--seed 0] [--threads 1] [--out FILE]

Without MODEL a random checkpoint is made, and its budget is the least that works and a quarter of the routed experts.
A process answers requests through `LLM`, in the order that --seed draws: other topics (few token ids, for a while),
long prompts, batches of many, forms, and streams that are left early. Its group of memory, version 1 or 2, has the
budget and 5 %; without the right to make one the budget alone is watched. Another process reads its resident memory at
100 Hz. Prints the highest beside the budget, the samples above it, the group's peak and how often it met its limit,
slots given back, requests done and errors; exits with 1 for a sample above the budget, an error or a death.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold.bench.circumstances import append, circumstances
from wavefold.bench.memory_group import MemoryGroup
from wavefold.engine import Sampling
from wavefold.llm import LLM
from wavefold.system.sizes import bytes_of, gib

ROOT = Path(__file__).resolve().parents[1]
PERIOD_S = 0.01
SHARE = 1.05
"""Of the budget, that the group may have."""
TOPIC_TOKENS, TOPIC_REQUESTS = 12, 20
LIMIT_S = 120
"""Of loading, and of ending once it is asked to."""


class Work:
    """Random requests to an LLM; `done` counts them by kind."""

    def __init__(self, llm: LLM, seed: int):
        self._llm, self._draws = llm, random.Random(seed)
        self._topic: list[int] = []
        self.done = dict.fromkeys(("answer", "long prompt", "batch", "form", "left early"), 0)
        self.errors: list[str] = []

    def one(self) -> None:
        """One request, or one batch of them."""
        if sum(self.done.values()) % TOPIC_REQUESTS == 0:
            self._topic = self._draws.choices(range(50, self._llm.model.config.vocab_size), k=TOPIC_TOKENS)
        kind = self._draws.choice(list(self.done))
        try:
            self._run(kind)
        except ValueError as error:
            self.errors.append(f"{kind}: {error}")
        self.done[kind] += 1

    def _run(self, kind: str) -> None:
        draws, llm = self._draws, self._llm
        sampling = Sampling(draws.randrange(1, 48), draws.choice([0.0, 1.0]), seed=draws.randrange(1 << 30))
        if kind == "batch":
            llm.generate([self._prompt(64) for _ in range(draws.randrange(2, 24))], sampling)
        elif kind == "form" and llm.tokenizer is not None:
            llm.generate(["a number: "], Sampling(32, 1.0, json_schema={"type": "integer"}, seed=draws.randrange(99)))
        elif kind == "left early":
            streams = [llm.stream(self._prompt(200), sampling) for _ in range(draws.randrange(1, 4))]
            for stream in streams:
                for _ in range(draws.randrange(6)):
                    next(stream, None)
            for stream in streams:
                stream.close()
        else:
            llm.generate([self._prompt(900 if kind == "long prompt" else 40)], sampling)

    def _prompt(self, most: int) -> list[int]:
        return self._draws.choices(self._topic, k=self._draws.randrange(most // 2, most))


def work(args: argparse.Namespace) -> int:
    """The process that is watched: answers for --seconds, then prints what it did."""
    with LLM(args.model, memory=bytes_of(args.memory), threads=args.threads) as llm:
        runner = Work(llm, args.seed)
        ends = time.monotonic() + args.seconds
        while time.monotonic() < ends:
            runner.one()
        store, budget = llm.model.experts.store, llm.budget
        print(json.dumps({
            "done": runner.done, "errors": runner.errors[:20], "num_errors": len(runner.errors),
            "slots": budget and budget.num_slots, "experts": budget and budget.num_experts,
            "given_back": store.counts.given_back() if hasattr(store, "counts") else "all experts in memory",
        }))  # fmt: skip
    return 0


def rss_of(process: int) -> int:
    """Returns the resident bytes of a process, 0 once it is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def command(args: argparse.Namespace, model: Path, memory: str) -> list[str]:
    numbers = [f"--{name}={getattr(args, name)}" for name in ("seconds", "seed", "threads")]
    return [sys.executable, __file__, str(model), "--memory", memory, "--work", *numbers]


def small_budget(args: argparse.Namespace, model: Path) -> str:
    """Returns the least budget of the process and a quarter of the checkpoint, as a number of bytes."""
    refused = subprocess.run(command(args, model, "1M"), capture_output=True, text=True)
    found = re.search(r"expected ([\d.,]+) GiB at least", refused.stderr)
    if found is None:
        sys.exit(refused.stderr)
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return str(int((float(found[1].replace(",", "")) + 0.01) * 2**30) + size // 4)


def watched(args: argparse.Namespace, model: Path, memory: str, group: MemoryGroup | None) -> dict[str, object]:
    """Runs the work in a group. Returns its figures and what was seen."""
    budget = bytes_of(memory)
    if group is not None:
        group.limit(int(SHARE * budget))
    enter = None if group is None else lambda: group.enter(os.getpid())
    process = subprocess.Popen(command(args, model, memory), stdout=subprocess.PIPE, text=True, preexec_fn=enter)
    assert process.stdout is not None
    highest = samples = above = 0
    deadline = time.monotonic() + args.seconds + 2 * LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        rss = rss_of(process.pid)
        highest, samples, above = max(highest, rss), samples + 1, above + (rss > budget)
        time.sleep(PERIOD_S)
    process.kill()
    said = process.stdout.read().splitlines()
    seen: dict[str, object] = {"budget": budget, "highest": highest, "samples": samples, "above": above,
                               "exit": process.wait()}  # fmt: skip
    if group is not None:
        seen |= {"group_limit": int(SHARE * budget), "group_peak": group.peak(), "group_failures": group.num_failures()}
    return seen | (json.loads(said[-1]) if process.returncode == 0 and said else {})


def show(figures: dict[str, object]) -> None:
    table = Table("", "", show_header=False)
    for name, value in figures.items():
        is_size = name in ("budget", "highest", "group_limit", "group_peak") and isinstance(value, int)
        table.add_row(name, gib(value) if is_size else str(value))  # type: ignore[arg-type]
    Console().print(table)


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from tests.small import SMALL_WITH_TEXT, small_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--memory", help="the budget; needed with MODEL")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON lines to append to")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    if args.model and not args.memory:
        parser.error("MODEL needs --memory")
    with tempfile.TemporaryDirectory() as name:
        model = args.model or Path(name) / "model"
        if args.model is None:
            config = SMALL_WITH_TEXT.replace(
                hidden_size=512, n_routed_experts=64, num_experts_per_tok=4, moe_intermediate_size=1024, o_lora_rank=128
            )
            small_model(model, config, 1)
        memory = args.memory or small_budget(args, model)
        group = MemoryGroup.new()
        try:
            figures = watched(args, model, memory, group)
        finally:
            if group is not None:
                group.remove()
    show(figures)
    if args.out:
        about = {"bench": "soak_stream", "model": str(args.model), "seconds": args.seconds, "seed": args.seed}
        append(args.out, [circumstances(1) | about | figures])
    return int(bool(figures["above"] or figures["exit"] or figures.get("num_errors")))


if __name__ == "__main__":
    sys.exit(main())
