"""`wavefold plan`: the cost of a model before it is downloaded: weights, operations, cache, this machine's time."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli import plan_machine, plan_ranks, plan_trace
from wavefold.cli.budget import print_budget
from wavefold.cli.tuning import add_tuning
from wavefold.gguf import is_gguf
from wavefold.locate import config_of
from wavefold.system.sizes import bytes_of

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.checkpoint.count import FileCount
    from wavefold.config import ModelConfig
    from wavefold.engine.budget import Budget
    from wavefold.plan.flops import Flops
    from wavefold.plan.summary import Plan

HELP = "count a model's tensors, operations and cache bytes from its configuration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL|PRESET", help="a checkpoint folder, a GGUF file, a config.json, or a preset"
    )
    parser.add_argument("--context", type=int, default=1_000_000, metavar="N", help="tokens (default 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the course from 4K to 1M tokens (.svg or .png)")
    parser.add_argument("--count", action="store_true", help="count a decode step of the real modules, too (a minute)")
    parser.add_argument("--remeasure", action="store_true", help="with --machine or --ranks: measure again")
    parser.add_argument("--budget", metavar="SIZE",
                        help="as if this process may have so much, as 24G: what lies where in a folder, rates with "
                        "--machine")  # fmt: skip
    add_tuning(parser)
    plan_machine.add_arguments(parser)
    plan_ranks.add_arguments(parser)
    plan_trace.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan at one length, by part and precision, under each convention, and the sweep."""
    from rich.console import Console

    from wavefold.plan.figure import check_path, draw
    from wavefold.plan.summary import plan

    config = config_of(args.model)
    if args.ranks is not None and args.ranks < 1:
        raise ValueError(f"--ranks {args.ranks} is not allowed; expected 1 or more")
    plan_machine.check_flags(args)
    if args.ranks:
        plans = plan_ranks.plan_ranks(config, args)
        if args.json:
            print(json.dumps([plan_ranks.values_of(ranked) for ranked in plans]))
        else:
            plan_ranks.print_ranks(Console(), args, plans)
        return 0
    if args.trace is not None:
        measured = plan_trace.plan_trace(config, args)
        if args.json:
            print(json.dumps(measured))
        else:
            plan_trace.print_trace(Console(), args, measured)
        return 0
    one = plan(config, args.context)
    if args.plot:
        check_path(args.plot)
    values = dataclasses.asdict(one)
    files = files_of(Path(args.model), config)
    if files is not None:
        values |= {"num_tensors": files.tensors, "weight_bytes": files.bytes, "files": dataclasses.asdict(files),
                  "formula": {"tensors": one.num_tensors, "bytes": one.weight_bytes}}  # fmt: skip
    if args.budget and not args.machine and files is None:
        raise ValueError(f"--budget {args.budget} is not allowed alone; expected --machine beside it, or a folder")
    budget = budget_of_folder(Path(args.model), args.budget) if args.budget and files is not None else None
    if budget is not None:
        values["budget"] = dataclasses.asdict(budget)
    if args.machine:
        values["machine"] = plan_machine.predict(config, args, budget, files)
    if args.json:
        if args.count:
            values["counted"] = counted(config, args.context)
        print(json.dumps(values))
    else:
        console = Console()
        print_weights(console, config, one, files)
        print_flops(console, config, args.context)
        if args.count:
            print_counted(console, config, args.context)
        print_course(console, config, one)
        if budget is not None:
            print_budget(console, budget)
        if args.machine:
            plan_machine.print_machine(console, values["machine"])
    if args.plot:
        draw(config, Path(args.model).name, args.plot)
        print(f"drawn: {args.plot}", file=sys.stderr)
    return 0


def files_of(path: Path, config: ModelConfig) -> FileCount | None:
    """The count of a model's files; None for a preset, a `config.json`, or a folder with that alone."""
    if not path.is_dir() and not is_gguf(path):
        return None
    from wavefold.checkpoint.count import count_files

    return count_files(path, config)


def print_weights(console: Console, config: ModelConfig, one: Plan, files: FileCount | None) -> None:
    from rich.table import Table

    from wavefold.plan.tensors import tensor_kinds

    formula = f"{one.weight_bytes / 1e9:,.2f} GB, {one.num_tensors:,} tensors"
    if files is None:
        title = f"weights: {formula}"
    else:
        title = f"weights: {files.bytes / 1e9:,.2f} GB, {files.tensors:,} tensors in the files; by formula {formula}"
    weights = Table("precision", "parameters", "active", title=title)
    kinds = tensor_kinds(config)
    for precision in ("fp4", "fp8", "bf16", "fp32"):
        chosen = [kind for kind in kinds if kind.precision == precision]
        values, active = sum(k.values for k in chosen), sum(k.active_values for k in chosen)
        weights.add_row(precision, f"{values / 1e9:,.3f} B", f"{active / 1e9:,.3f} B")
    weights.add_row("all", f"{one.params / 1e9:,.3f} B", f"{one.active_params / 1e9:,.3f} B")
    console.print(weights)
    if files is not None:
        print_differences(console, files)


def print_differences(console: Console, files: FileCount) -> None:
    """Print the tensors that only the files hold, then those that only the configuration's model has, one line each."""
    from wavefold.checkpoint.count import by_part

    lines = [
        (files.extra, f"in the files alone ({files.extra_bytes / 1e9:,.2f} GB; the figures below do not count them)"),
        (files.missing, "of the configuration's model are in no file"),
    ]
    for names, verdict in lines:
        if names:
            parts = ", ".join(f"{part} ({count:,})" for part, count in by_part(names).items())
            console.print(f"{len(names):,} tensors {verdict}: {parts}", soft_wrap=True, highlight=False)


def print_flops(console: Console, config: ModelConfig, context: int) -> None:
    """A decoded and a prompt's token by part, and V3.2's, under each convention."""
    from rich.table import Table

    from wavefold.plan.baseline import v32_decode_flops, v32_prefill_flops
    from wavefold.plan.flops import CONVENTIONS, decode_flops, prefill_flops

    def table(title: str, v4: Flops, v32: Flops) -> Table:
        parts = Table("convention", *v4.weighted(CONVENTIONS[0]), "all", "V3.2", "of V3.2", title=title)
        for convention in CONVENTIONS:
            figures = [*v4.weighted(convention).values(), v4.total(convention), v32.total(convention)]
            share = v4.total(convention) / v32.total(convention)
            parts.add_row(convention.name, *(f"{figure / 1e9:,.1f}" for figure in figures), f"{100 * share:.2f} %")
        return parts

    decoded = f"GFLOPs of a token decoded at {context:,} tokens"
    console.print(table(decoded, decode_flops(config, context), v32_decode_flops(context)))
    prompt = f"GFLOPs of a prompt's token, mean over a prompt of {context:,}"
    console.print(table(prompt, prefill_flops(config, context), v32_prefill_flops(context)))


def counted(config: ModelConfig, context: int) -> dict[str, int]:
    """Operations of a decode step by part, as the modules' ops count them."""
    from wavefold.model.dry_run import count_decode_step

    counter = count_decode_step(config, context)
    return {part: counter.of(part) for part in dict.fromkeys(name for name, _ in counter)}


def print_counted(console: Console, config: ModelConfig, context: int) -> None:
    from rich.table import Table

    from wavefold.model.dry_run import COUNTED_PARTS
    from wavefold.plan.flops import decode_flops

    counts = counted(config, context)
    formula = decode_flops(config, context)
    table = Table("part", "counted", "formula", title="operations of one decode step of the real modules")
    for part in COUNTED_PARTS:
        table.add_row(part, f"{counts.get(part, 0):,}", f"{formula.of(part):,.0f}")
    outside = {part: count for part, count in counts.items() if part not in COUNTED_PARTS}
    for part, count in sorted(outside.items(), key=lambda item: -item[1]):
        table.add_row(part, f"{count:,}", "outside")
    share = sum(outside.values()) / sum(counts.values())
    console.print(table)
    console.print(f"outside the formulas: {100 * share:.2f} % of all")


def print_course(console: Console, config: ModelConfig, one: Plan) -> None:
    from rich.table import Table

    from wavefold.plan.summary import sweep

    course = Table("context", "GFLOPs", "of V3.2", "KV cache", "of V3.2", "of BF16 GQA-8",
                   title="from 4K to 1M tokens, a decoded token, equivalent FP8 FLOPs, packed records")  # fmt: skip
    for row in [*sweep(config), one]:
        course.add_row(f"{row.context:,}", f"{row.flops_per_token / 1e9:,.1f}", f"{100 * row.flops_ratio_v32:.2f} %",
                       f"{row.kv_bytes / 2**30:,.3f} GiB", f"{100 * row.kv_ratio_v32:.2f} %",
                       f"{100 * row.kv_ratio_gqa8:.2f} %")  # fmt: skip
    console.print(course)
    console.print(f"and {one.state_bytes / 1e6:,.1f} MB of state for each sequence: windows and compressor tails")


def budget_of_folder(folder: Path, memory: str) -> Budget | None:
    """What lies where for the checkpoint in `folder`. Raises ValueError for less than the least that works."""
    from wavefold.engine.budget import budget_of
    from wavefold.ops import DEFAULT_ARITHMETIC, Arithmetic

    return budget_of(folder, Arithmetic(DEFAULT_ARITHMETIC), bytes_of(memory, "--budget"))
