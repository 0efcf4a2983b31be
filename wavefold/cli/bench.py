"""`wavefold bench`: measure this machine, with or without a model. Tables on the screen, JSON lines with `--out`.

Each measurement is a file, `cli/bench_NAME.py`, with HELP, REPEATS (the default of `--repeats`), add_arguments and run.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from types import ModuleType

from wavefold.cli import (
    bench_cache,
    bench_context,
    bench_gemv,
    bench_peers,
    bench_rows,
    bench_speed,
    bench_stream,
    bench_tune,
)
from wavefold.cli.tuning import add_tuning, tuned

HELP = "measure kernels, their tuning, speed, rates at growing contexts, peers, streamed experts, and the cache"
BENCHES: dict[str, ModuleType] = {
    "speed": bench_speed, "context": bench_context, "cache": bench_cache, "gemv": bench_gemv, "rows": bench_rows,
    "peers": bench_peers, "tune": bench_tune, "stream": bench_stream,
}  # fmt: skip
TUNED = ("speed", "context", "gemv", "rows", "peers", "stream")
"""Those that run the kernels with one tuning."""
SEVERAL_THREADS = ("gemv", "rows")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="bench", required=True, metavar="|".join(BENCHES), help="what to measure")
    for name, module in BENCHES.items():
        bench = benches.add_parser(name, help=module.HELP, allow_abbrev=False)
        module.add_arguments(bench)
        if name in TUNED:
            add_tuning(bench)
        bench.add_argument("--repeats", type=int, default=module.REPEATS, metavar="N",
                           help=f"runs of each; the table has medians (default {module.REPEATS})")  # fmt: skip
        bench.add_argument("--out", type=Path, help="file to append JSON lines to, one for each run and row")


def run(args: argparse.Namespace) -> int:
    if args.repeats < 1:
        raise ValueError(f"--repeats {args.repeats} is not allowed; expected 1 or more")
    if not 0 <= getattr(args, "gib", 0) < math.inf:  # NaN is refused too
        raise ValueError(f"--gib {args.gib} is not allowed; expected 0 (one matrix) or more")
    if args.bench not in TUNED:
        return start(args)
    several = args.bench in SEVERAL_THREADS
    with tuned(args.tuning, max(args.threads or [0]) or None if several else args.threads, measures=True):
        return start(args)


def start(args: argparse.Namespace) -> int:
    code: int = BENCHES[args.bench].run(args)
    return code
