"""Decoding while another process takes a core: what is left of the idle machine's rate.

    python bench/busy_core.py MODEL [--threads 2] [--tokens 40] [--turns 7] [--core 1] [--kernels LIBRARY ...]

A process decodes on one thread, another on `--threads`. They take turns, first on the idle machine, then beside a loop
that is pinned to `--core` and has the same priority. The bar is the idle rate of one thread plus half of what others
add to it, as the loop leaves half of its core. `--kernels` repeats all of it with other builds, in the same turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wavefold.bench.worker import Worker


def work(model_path: str, threads: int) -> None:
    """A process of a turn: reads {"tokens": N}, prints {"rate": tokens a second}."""
    import torch

    from wavefold.checkpoint import load
    from wavefold.model import Step

    torch.set_num_threads(threads)
    model = load(Path(model_path), "released", torch.bfloat16)
    sequence = model.new_pool(4096).open()
    generator = torch.Generator().manual_seed(0)

    def decode(count: int) -> None:
        if sequence.num_tokens + count > 4000:
            sequence.rewind(sequence.num_tokens - 8)
        for _ in range(count):
            token = torch.randint(model.config.vocab_size, (1,), generator=generator)
            model.forward_step(Step(token, [sequence], [1], [0]))

    with torch.no_grad():
        decode(8)
        print("{}", flush=True)
        for line in sys.stdin:
            count = json.loads(line)["tokens"]
            began = time.perf_counter()
            decode(count)
            print(json.dumps({"rate": count / (time.perf_counter() - began)}), flush=True)


@contextmanager
def busy(core: int) -> Iterator[None]:
    """While the block runs, another process computes on `core`."""
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=40, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument(
        "--kernels", nargs="*", default=[], metavar="LIBRARY", help="other builds of the same interface"
    )
    args = parser.parse_args()
    builds = {"these": os.environ.get("WAVEFOLD_NATIVE", ""), **{name: name for name in args.kernels}}
    rates: dict[tuple[str, int, bool], list[float]] = {}
    with ExitStack() as stack:
        workers = {}
        for name, path in builds.items():
            environment = {"OMP_WAIT_POLICY": "PASSIVE"} | ({"WAVEFOLD_NATIVE": path} if path else {})
            for threads in (1, args.threads):
                command = [sys.executable, __file__, "--worker", str(args.model), str(threads)]
                workers[name, threads] = stack.enter_context(Worker(f"{name}, {threads}", command, environment))
        for turn in range(args.turns):
            for is_busy in (False, True):
                with busy(args.core) if is_busy else ExitStack():
                    for (name, threads), worker in list(workers.items())[:: 1 if turn % 2 else -1]:
                        rate = worker.ask({"tokens": args.tokens})["rate"]
                        rates.setdefault((name, threads, is_busy), []).append(rate)
    table = Table(
        "kernels", "idle, 1 thread", f"idle, {args.threads}", "busy, 1", f"busy, {args.threads}", "of the bar"
    )
    for name in builds:
        one, all_threads = rates[name, 1, False], rates[name, args.threads, False]
        left = rates[name, args.threads, True]
        shares = [c / (a + (b - a) / 2) for a, b, c in zip(one, all_threads, left, strict=True)]
        medians = [statistics.median(rates[name, n, is_busy]) for is_busy in (False, True) for n in (1, args.threads)]
        table.add_row(
            name, *[f"{rate:.1f}" for rate in medians],
            f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main()
