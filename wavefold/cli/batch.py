"""`wavefold batch`: a file of prompts, answered many at a time, with results as they come."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import ranks
from wavefold.cli.models import add_arithmetic, add_memory, arithmetic_of, prefix_of
from wavefold.cli.tuning import add_tuning, tuned
from wavefold.waves import agreement

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.batch import Results
    from wavefold.batch.lines import Job
    from wavefold.llm import LLM

HELP = "answer a file of prompts, many at a time; the same command again goes on where it was stopped"
WIDTH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="IN", help='JSON lines: OpenAI\'s batch format, or {"prompt": ...}')
    parser.add_argument("output", type=Path, metavar="OUT", help="results, a line each, in the order in which they end")
    parser.add_argument(
        "--model", type=Path, metavar="MODEL", help="a checkpoint folder or GGUF file (default: the shipped model)"
    )
    parser.add_argument("--width", type=int, default=WIDTH, metavar="N",
                        help=f"answers at a time, as far as memory allows (default {WIDTH})")  # fmt: skip
    parser.add_argument("--shard", metavar="I/N",
                        help="do part I of N alone, from 1/N to N/N: every N-th line of IN. Give each shard an OUT of "
                        "its own; together they hold each line once")  # fmt: skip
    parser.add_argument("--batch-invariant", action="store_true",
                        help="each answer is the one that its line has alone, to the bit")  # fmt: skip
    add_memory(parser, prefix=True)
    add_arithmetic(parser)
    add_tuning(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")
    ranks.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answers the lines that have no result yet; 1 if a result of this run is an error."""
    alone = agreement.num_ranks() == 1
    together = contextlib.nullcontext() if alone else agreement.joined()
    with tuned(args.tuning, args.threads, measures=False, alone=alone), together:
        return run_first(args) if agreement.is_first() else run_other(args)


def run_first(args: argparse.Namespace) -> int:
    """In the process that reads lines and writes results: over ranks the first one, or the one that there is."""
    from rich.console import Console

    from wavefold.batch import Results, Shard, read_jobs
    from wavefold.cli.flags import as_flags

    def opened() -> tuple[tuple[list[Job], Results], dict[str, object]]:
        with as_flags():
            shard = Shard.parse(args.shard or "1/1")
        all_jobs = read_jobs(args.input)
        jobs = list(shard.of(all_jobs))
        return (jobs, Results(args.output, [job.key for job in jobs], [job.key for job in all_jobs])), {}

    console = Console(stderr=True)
    jobs, results = agreement.agreed(opened)
    with results:
        if before := len(results.done):
            console.print(f"{before:,} of {len(jobs):,} results are in {args.output}")
        if not agreement.of_all({"left": len(jobs) - before})[0]["left"]:
            return 0
        num_errors = answer(agreement.agreed(lambda: (open_llm(args), {})), jobs, results, console)
    if num_errors:
        console.print(f"{num_errors:,} of {len(jobs) - before:,} results are errors; each says why")
    return 1 if num_errors else 0


def run_other(args: argparse.Namespace) -> int:
    """In the other processes: they run the first one's passes, each with its share of the experts."""
    agreement.agreed(lambda: (None, {}))
    if agreement.of_all({"left": None})[0]["left"]:
        agreement.agreed(lambda: (open_llm(args), {})).follow()
    return 0


def open_llm(args: argparse.Namespace) -> LLM:
    from wavefold.cli.flags import as_flags
    from wavefold.llm import LLM

    kept = prefix_of(args)
    with as_flags():
        return LLM(
            args.model, arithmetic_of(args), threads=args.threads, over_ranks=ranks.over_ranks(args),
            memory=args.memory, width=args.width, batch_invariant=args.batch_invariant,
            prefix_cache=bool(kept), **kept,
        )  # fmt: skip


def answer(llm: LLM, jobs: Sequence[Job], results: Results, console: Console) -> int:
    """Answers the jobs under a bar of progress. Returns the number of results that are errors."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from wavefold.batch import run_batch
    from wavefold.cli.budget import print_budget

    columns = "prompts", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    with llm, Progress(*columns, console=console) as progress:
        if llm.budget is not None:
            print_budget(console, llm.budget)
        task = progress.add_task("", total=len(jobs), completed=len(results.done), rate="")
        began = time.perf_counter()

        def show(done: int, of: int, tokens: int) -> None:
            rate = tokens / (time.perf_counter() - began)
            progress.update(task, completed=done, rate=f"{rate:,.1f} tokens/s")

        return run_batch(llm, jobs, results, show)
