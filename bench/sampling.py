"""Choosing tokens from logits: the kernels beside torch, in turns, for rows of requests with the same settings.

    python bench/sampling.py [--vocab 129280] [--rows 1 16] [--repeats 9] [--threads 2] [--spread 3] [--out FILE]

Logits are normal, `--spread` nats apart. Prints a table (medians of turns; the ratio is the median of turns,
with its range) and one JSON line for each row of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from wavefold import ops
from wavefold.bench.circumstances import circumstances
from wavefold.config import ModelConfig
from wavefold.engine.choosing import Row, by_torch, next_tokens
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.sampling import Sampling

SETTINGS = {
    "greedy": Sampling(temperature=0),
    "temperature 1": Sampling(temperature=1),
    "top-p 0.95": Sampling(temperature=1, top_p=0.95),
    "top-k 50, top-p 0.9": Sampling(temperature=0.8, top_p=0.9, top_k=50),
    "min-p 0.05": Sampling(temperature=1, min_p=0.05),
    "penalties, 4,096 tokens": Sampling(temperature=1, repetition_penalty=1.1, frequency_penalty=0.1),
}


def rows_of(sampling: Sampling, count: int, vocab: int) -> list[Row]:
    resolved = sampling.resolved(GenerationDefaults(), ModelConfig.preset("flash"))
    prompts = torch.randint(0, vocab, (count, 4096)).tolist()
    return [Row(resolved, prompt, prompt[:64], None, 0) for prompt in prompts]


def seconds(choose: Callable[[], object]) -> float:
    began = time.perf_counter()
    choose()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=129_280)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spread", type=float, default=3.0, help="standard deviation of logits (3)")
    parser.add_argument("--out", help="file to append JSON lines to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table("settings", "rows", "kernels, ms", "torch, ms", "torch / kernels", "range",
                  title=f"{args.vocab:,} tokens, {args.threads} threads")  # fmt: skip
    lines = []
    for name, sampling in SETTINGS.items():
        for count in args.rows:
            lines.append(measured(name, sampling, count, args))
            ours, theirs, ratio = (lines[-1][key] for key in ("kernels_s", "torch_s", "ratio"))
            low, high = lines[-1]["range"]  # type: ignore[misc]
            table.add_row(name, str(count), f"{1e3 * ours:.3f}", f"{1e3 * theirs:.2f}", f"{ratio:.1f}",
                          f"{low:.1f} to {high:.1f}")  # type: ignore[operator, str-format]  # fmt: skip
    Console().print(table)
    if args.out:
        with open(args.out, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def measured(name: str, sampling: Sampling, count: int, args: argparse.Namespace) -> dict[str, object]:
    """One line: both choose for `count` rows, in turns."""
    logits, rows = torch.randn(count, args.vocab) * args.spread, rows_of(sampling, count, args.vocab)
    contestants: Sequence[Callable[[], object]] = (
        partial(next_tokens, logits, rows, range(count)), partial(by_torch, logits, rows)
    )  # fmt: skip
    with ops.using(threads=args.threads):
        for choose in contestants:
            choose()
        turns = [[seconds(choose) for choose in contestants] for _ in range(args.repeats)]
    ours, theirs = (statistics.median(turn[number] for turn in turns) for number in (0, 1))
    ratios = sorted(turn[1] / turn[0] for turn in turns)
    return circumstances(args.repeats) | {
        "bench": "sampling", "settings": name, "rows": count, "vocab": args.vocab, "kernels_s": ours, "torch_s": theirs,
        "ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]],
    }  # fmt: skip


if __name__ == "__main__":
    main()
