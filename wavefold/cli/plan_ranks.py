"""`wavefold plan MODEL --ranks R --link RATE`: a layer's experts over ranks, in waves, before there are any."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.tuning import measured_path

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.config import ModelConfig
    from wavefold.waves.predict import Machine, Prediction

UNITS = {"": 1e9, "gbit": 1e9 / 8, "mbit": 1e6 / 8}
PREFILL_TOKENS = 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experts over several machines")
    group.add_argument("--ranks", type=int, metavar="R", help="plan a layer's routed experts over R ranks, in waves")
    group.add_argument(
        "--link", type=link_rate, metavar="GBPS", default=1.25,
        help="a rank's link, one way: gigabytes a second, or 100mbit, 1gbit, 10gbit (1.25, which is 10gbit)",
    )  # fmt: skip
    group.add_argument("--latency", type=float, default=50.0, metavar="US", help="microseconds of a message (50)")
    group.add_argument(
        "--tflops", type=float, help="a rank's products, TFLOP/s (this machine's bfloat16, measured once)"
    )
    group.add_argument("--memory", type=float, metavar="GBPS", help="a rank's memory, GB/s read (this machine's)")
    group.add_argument("--tokens", type=int, help=f"new tokens of each rank in a pass (1 and {PREFILL_TOKENS})")
    group.add_argument("--hot", type=float, default=1.0, help="how many times as often the first rank is chosen (1)")
    group.add_argument("--timeline", type=Path, metavar="FILE", help="draw the plan of the last pass (.svg or .png)")


def link_rate(text: str) -> float:
    """GB/s from "1.25", "10gbit" or "100mbit"."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)(gbit|mbit|)", text.lower())
    if not found or not float(found[1]) > 0:
        raise argparse.ArgumentTypeError(
            f"a link of {text!r} is not allowed; expected gigabytes a second (1.25) or 100mbit, 10gbit"
        )
    return float(found[1]) * UNITS[found[2]] / 1e9


def plan_ranks(config: ModelConfig, args: argparse.Namespace) -> list[Prediction]:
    """The plans of a decode step and a prompt, or of `--tokens`. Raises ValueError for flags that cannot be planned."""
    from wavefold.waves import timeline
    from wavefold.waves.predict import predict
    from wavefold.waves.simulate import Link

    for name in ("tflops", "memory", "hot", "tokens"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} {value} is not allowed; expected a positive number")
    machine, link = rank_machine(args), Link(args.link * 1e9, args.latency / 1e6)
    passes = [args.tokens] if args.tokens else [1, PREFILL_TOKENS]
    plans = [predict(config, args.ranks, tokens, machine, link, hot=args.hot) for tokens in passes]
    if args.timeline:
        title = f"{plans[-1].tokens} tokens a rank, {plans[-1].waves.num_waves} waves"
        timeline.draw([(title, plans[-1].outcome.spans)], args.timeline)
    return plans


def rank_machine(args: argparse.Namespace) -> Machine:
    """The rates of `--tflops` and `--memory`. A missing flag takes the rate of this machine."""
    from wavefold.plan import machine as machines
    from wavefold.waves.predict import Machine

    flops, memory = args.tflops, args.memory
    if flops is None or memory is None:
        here = machines.this_machine(
            measured_path(), args.remeasure, lambda step: print(f"measuring {step}", file=sys.stderr)
        )
        flops = here.gemm["bfloat16"] / 1e12 if flops is None else flops
        memory = here.memory_read / 1e9 if memory is None else memory
    return Machine(flops * 1e12, memory * 1e9)


def values_of(plan: Prediction) -> dict[str, object]:
    """A plan's figures by name, as `--json` prints them."""
    names = ("tokens", "seconds", "naive_s", "compute_s", "memory_s", "link_s", "sent_bytes", "copies", "imbalance",
             "rho", "bound_s", "limit", "helps")  # fmt: skip
    return {name: getattr(plan, name) for name in names} | {
        "ranks": plan.waves.num_ranks, "waves": plan.waves.num_waves, "ring": plan.waves.depth
    }  # fmt: skip


def print_ranks(console: Console, args: argparse.Namespace, plans: list[Prediction]) -> None:
    from rich.table import Table

    title = f"one layer's routed experts over {args.ranks} ranks, a link of {args.link:g} GB/s each way"
    table = Table("tokens a rank", "waves", "ring", "ms", "one after the other", "at best", "limit", "rho", title=title)
    for plan in plans:
        table.add_row(
            f"{plan.tokens:,}", str(plan.waves.num_waves), str(plan.waves.depth), f"{1e3 * plan.seconds:,.2f}",
            f"{1e3 * plan.naive_s:,.2f}", f"{1e3 * plan.bound_s:,.2f}", plan.limit, f"{plan.rho:.2f}",
        )  # fmt: skip
    console.print(table)
    for plan in plans:
        gain = plan.naive_s / plan.seconds
        verdict = f"waves make it {gain:.2f} times as fast" if plan.helps else f"waves do not help ({gain:.2f} times)"
        console.print(
            f"{plan.tokens:,} tokens: {verdict}; a rank sends {plan.sent_bytes / 1e6:,.2f} MB, rows travel "
            f"{plan.copies:.2f} times per expert, the fullest rank has {plan.imbalance:.2f} times the mean"
        )
