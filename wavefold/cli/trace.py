"""`wavefold trace`: the experts that a model's routers choose for prompts and answers, as a file of ids."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavefold.cli import prompts
from wavefold.cli.models import add_arithmetic, add_memory, add_model, arithmetic_of
from wavefold.cli.tuning import add_tuning, tuned

if TYPE_CHECKING:
    from wavefold.engine import Sampling

HELP = "record which experts a model chooses, for `wavefold plan MODEL --trace FILE`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE",
                        help="the trace: ids of experts by pass, layer and token, and no text")  # fmt: skip
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", action="append", metavar="TEXT",
                        help="a text to complete; may be repeated (default: each line of stdin)")  # fmt: skip
    source.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, in the lines of `wavefold batch`")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default: as `wavefold run`)")
    parser.add_argument("--temperature", type=float, metavar="T", help="as `wavefold run`")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampling (default 0)")
    parser.add_argument("--width", type=int, default=1, metavar="N", help="answers at a time (default 1)")
    add_memory(parser)
    add_arithmetic(parser)
    add_tuning(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Answers the prompts and writes the trace. Raises ValueError, and writes nothing, if one cannot be answered."""
    from rich.console import Console

    from wavefold.cli.budget import print_budget
    from wavefold.cli.flags import as_flags
    from wavefold.engine import Sampling
    from wavefold.experts.traces import Recorder, write_trace
    from wavefold.llm import LLM

    if not args.out.absolute().parent.is_dir() or args.out.is_dir():
        raise ValueError(f"--out {args.out} is not allowed; expected the name of a file in a folder that exists")
    jobs = jobs_of(args, Sampling(args.max_tokens, args.temperature, seed=args.seed))
    console = Console(stderr=True)
    with tuned(args.tuning, args.threads, measures=False, alone=True), as_flags():
        llm = LLM(
            args.model, arithmetic_of(args), threads=args.threads, memory=args.memory, width=args.width,
            prefix_cache=False,
        )  # fmt: skip
        with llm, console.status("") as status:
            if llm.budget is not None:
                print_budget(console, llm.budget)
            recorder = Recorder(llm.model.experts.store.table)
            llm.model.tell_chosen(recorder)
            for done, (number, answer) in enumerate(llm.each(iter(jobs)), 1):
                if isinstance(answer, ValueError):
                    raise ValueError(f"prompt {number}: {answer}")
                status.update(f"{done:,} of {len(jobs):,} prompts, {recorder.num_tokens:,} tokens")
    trace = recorder.trace()
    write_trace(args.out, trace)
    console.print(
        f"{args.out}: {trace.num_tokens:,} tokens in {len(trace.rows):,} passes, {trace.num_layers} layers, "
        f"{trace.topk} of {trace.num_experts} experts",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return 0


def jobs_of(args: argparse.Namespace, sampling: Sampling) -> list[tuple[int, Any, Sampling]]:
    """The numbered prompts of the flags. Raises ValueError for a line that cannot be run, and where there is none."""
    jobs: list[tuple[int, Any, Sampling]]
    if args.prompts is not None:
        from wavefold.batch import read_jobs

        read = read_jobs(args.prompts)
        for job in read:
            if job.error:
                raise ValueError(f"{args.prompts}: {job.error}")
        jobs = [(job.number, job.prompt, filled(job.sampling or sampling, sampling)) for job in read]
    else:
        jobs = list(texts(args, sampling))
    if not jobs:
        raise ValueError("no prompt; give one with -p TEXT, in --prompts FILE or on stdin")
    return jobs


def filled(line: Sampling, flags: Sampling) -> Sampling:
    """A line's sampling, with what it leaves open as the flags say."""
    names = [name for name in ("max_tokens", "temperature") if getattr(line, name) is None]
    return dataclasses.replace(line, **{name: getattr(flags, name) for name in names})


def texts(args: argparse.Namespace, sampling: Sampling) -> Iterator[tuple[int, str, Sampling]]:
    for number, text in enumerate(prompts.lines() if args.prompt is None else args.prompt, 1):
        yield number, text, sampling
