"""`wavefold plan MODEL --trace FILE`: how many experts in memory are worth it, by the choices of a model that ran."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.tuning import measured_path
from wavefold.system.sizes import gib

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.config import ModelConfig
    from wavefold.experts.traces.sizes import Size

DEFAULT_READ = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experts in memory, by a trace")
    group.add_argument("--trace", type=Path, metavar="FILE",
                       help="what `wavefold trace` wrote: compare policies and numbers of slots; with --machine, rates "
                       "by this machine's disk")  # fmt: skip
    group.add_argument("--slots", type=numbers, metavar="N,...", help="experts in memory (default: 1/16 to 7/8 of all)")
    group.add_argument("--read", type=float, default=DEFAULT_READ, metavar="SHARE",
                       help="recommend the fewest slots with which at most this share of the experts asked for is read "
                       f"({DEFAULT_READ})")  # fmt: skip


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; expected whole numbers, as 100,200") from None


def plan_trace(config: ModelConfig, args: argparse.Namespace) -> dict[str, object]:
    """The figures by number of slots, and the recommended numbers. Raises ValueError for a trace of another model."""
    from rich.console import Console

    from wavefold.experts.traces import read_trace
    from wavefold.experts.traces.figure import draw
    from wavefold.experts.traces.sizes import OURS, Sizes, compared, knee
    from wavefold.plan.figure import check_path
    from wavefold.plan.predict import need

    if args.plot:
        check_path(args.plot)
    trace = read_trace(args.trace)
    shape = trace.num_layers, trace.num_experts, trace.topk
    expected = config.num_hidden_layers, config.n_routed_experts, config.num_experts_per_tok
    if shape != expected:
        raise ValueError(f"{args.trace}: {_shape(shape)} are not those of {args.model}; expected {_shape(expected)}")
    sizes = Sizes(trace)
    with Console(stderr=True).status("") as status:
        rows = compared(
            sizes, args.slots or sizes.default_slots(), lambda done, of: status.update(f"{done} of {of} sizes")
        )
        status.update(f"the fewest slots that read {args.read:.0%}")
        chosen = {"knee": knee(rows), "fewest": sizes.fewest(args.read)}
    rate = disk_rate(args) if args.machine else None
    fixed = need(config, args.context).fixed

    def values_of(row: Size) -> dict[str, object]:
        rates = {} if rate is None else {"tokens_per_s": row.tokens_per_s(rate) if row.bytes_per_token else None}
        return dataclasses.asdict(row) | {"memory": row.slot_bytes + fixed} | rates

    if args.plot:
        draw(rows, sizes.num_experts, args.plot)
        print(f"drawn: {args.plot}", file=sys.stderr)
    return {
        "tokens": trace.num_tokens, "counted_tokens": sizes.num_tokens, "passes": len(trace.rows),
        "num_experts": sizes.num_experts, "expert_bytes": trace.expert_bytes, "policy": OURS, "disk_rate": rate,
        "sizes": [values_of(row) for row in rows],
        "recommended": {name: values_of(row) for name, row in chosen.items()},
    }  # fmt: skip


def _shape(shape: tuple[int, int, int]) -> str:
    return "{} layers of {} experts, {} a token".format(*shape)


def disk_rate(args: argparse.Namespace) -> float | None:
    """This machine's bytes a second from disk; None where they cannot be measured."""
    from wavefold.plan.machine import this_machine

    return this_machine(
        measured_path(), args.remeasure, lambda step: print(f"measuring {step}", file=sys.stderr)
    ).disk_read  # fmt: skip


def print_trace(console: Console, args: argparse.Namespace, values: dict) -> None:
    """Print the table and the recommendations."""
    from rich.table import Table

    names = list(values["sizes"][0]["hits"])
    has_rate = values["disk_rate"] is not None
    table = Table("slots", "GiB", *names, "MB a token", *(["tokens/s by the disk"] if has_rate else []),
                  title=f"found in memory, %: second half of {values['tokens']:,} tokens")  # fmt: skip
    for row in values["sizes"]:
        table.add_row(
            f"{row['num_slots']:,}, {row['num_slots'] / values['num_experts']:.0%}",
            f"{row['slot_bytes'] / 2**30:.3g}", *(f"{100 * row['hits'][name]:.1f}" for name in names),
            f"{row['bytes_per_token'] / 1e6:,.2f}", *([_rate(row)] if has_rate else []),
        )  # fmt: skip
    console.print(table)
    reasons = {"knee": "the knee: more slots bring less each", "fewest": f"at most {args.read:.0%} read from disk"}
    beside = f"with dense weights, program and a cache of {args.context:,} tokens"
    for name, row in values["recommended"].items():
        at = f", {_rate(row)} tokens/s by the disk" if has_rate else ""
        found = f"{100 * row['hits']['slots']:.1f} % found{at}; {gib(row['memory'])} {beside}"
        line = f"{reasons[name]}: {row['num_slots']:,} slots, {row['slot_bytes'] / 2**30:.3g} GiB, {found}"
        console.print(line, highlight=False, soft_wrap=True)


def _rate(row: dict) -> str:
    return "no reads" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:,.1f}"
