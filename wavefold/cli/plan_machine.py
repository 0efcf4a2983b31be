"""`wavefold plan --machine`: the rates of this machine, or of one that is described, and what they allow."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from typing import TYPE_CHECKING

from wavefold.cli.tuning import measured_path, tuned
from wavefold.system.sizes import bytes_of

if TYPE_CHECKING:
    from rich.console import Console

    from wavefold.checkpoint.count import FileCount
    from wavefold.config import ModelConfig
    from wavefold.engine.budget import Budget
    from wavefold.plan.machine import Machine
    from wavefold.plan.predict import Placed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--machine` and what describes another one; `--memory` and `--tflops` are those of a rank, too."""
    group = parser.add_argument_group("rates of a machine")
    group.add_argument("--machine", action="store_true",
                       help="predict this machine's rates; measures it the first time (a minute). With --memory, "
                       "--disk and --tflops those of another one")  # fmt: skip
    group.add_argument("--disk", type=float, metavar="GBPS", help="its disk, GB/s read (this machine's)")
    group.add_argument("--experts", metavar="TYPE",
                       help="as if the routed experts were in this type of GGUF files, as q2_k")  # fmt: skip


def check_flags(args: argparse.Namespace) -> None:
    """Raises ValueError for rates that are no positive numbers, a budget that is no size, and flags without effect."""
    if args.budget is not None:
        bytes_of(args.budget, "--budget")
    for name in ("memory", "disk", "tflops"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} {value} is not allowed; expected a number above 0, in "
                             f"{'TFLOP/s' if name == 'tflops' else 'GB/s'}")  # fmt: skip
    other = "--ranks" if args.ranks else "--trace" if args.trace is not None else ""
    names = ("disk", "experts") if args.ranks else ("disk", "experts", "memory", "tflops")
    for name in names:
        value = getattr(args, name)
        if value is not None and other:
            raise ValueError(f"--{name} {value} is not allowed with {other}; leave one of them out")
        if value is not None and not args.machine:
            raise ValueError(f"--{name} {value} is not allowed alone; expected --machine beside it")


def predict(
    config: ModelConfig, args: argparse.Namespace, budget: Budget | None = None, files: FileCount | None = None
) -> dict[str, object]:  # fmt: skip
    """The machine's figures and the rates that they allow, with a folder's `budget` in its place.

    Raises ValueError if the model does not fit in memory, and for flags that cannot be.
    """
    from wavefold import ops, system
    from wavefold.ops import native
    from wavefold.plan.predict import decode_rate, need, prefill_rate

    memory = bytes_of(args.budget, "--budget") if args.budget else system.memory_bytes()
    where = _placed(config, args, memory, budget, files)
    machine = _machine(args)
    with tuned(args.tuning, None, measures=True):
        tuning = ops.current().tuning._asdict() if native.available() and machine.cpu != DESCRIBED else None
    rates = {
        "decode": decode_rate(config, args.context, machine, where),
        "prefill": prefill_rate(config, args.context, machine, where),
    }
    return dataclasses.asdict(machine) | {
        "memory": memory,
        "tuning": tuning,
        "needed": dataclasses.asdict(need(config, args.context, where.scale)),
        "routed_in_memory": where.share,
        **{
            name: {
                "tokens_per_s": rate.tokens_per_s,
                "expected_per_s": rate.expected_per_s,
                "limit": rate.limit,
                "seconds": dict(rate.seconds),
            }
            for name, rate in rates.items()
        },
    }


def _placed(
    config: ModelConfig, args: argparse.Namespace, memory: int, budget: Budget | None, files: FileCount | None
) -> Placed:  # fmt: skip
    """What the memory holds, by a budget of the files or else by formula."""
    from wavefold.gguf.types import ggml_type
    from wavefold.plan.predict import Placed, placed, scale_of, weight_bytes

    scale = 1.0
    if args.experts is not None:
        if files is not None:
            raise ValueError(f"--experts {args.experts} is not allowed for files, which have a type; expected a preset")
        scale = scale_of(config, ggml_type(args.experts.lower()).bits)
    elif files is not None and files.routed:
        scale = files.routed / weight_bytes(config)[1]
    if budget is None:
        return placed(config, args.context, memory, scale)
    main = config.n_routed_experts * len(config.main_layers)
    share = 1.0 if budget.num_slots is None else min(1.0, budget.num_slots / main)
    return Placed(share, budget.step_tokens, scale)


DESCRIBED = "described"
"""The processor's name of a machine of which all rates were given."""


def _machine(args: argparse.Namespace) -> Machine:
    """This machine's rates, measured once, with those that were given in their place."""
    from wavefold.plan.machine import Machine, this_machine

    rates = {"memory": args.memory, "disk": args.disk, "tflops": args.tflops}
    if None in rates.values():
        machine = this_machine(
            measured_path(), args.remeasure, lambda step: print(f"measuring {step}", file=sys.stderr)
        )
    else:
        machine = Machine(DESCRIBED, 0, "", 0.0, {}, None, "")
    if args.memory:
        machine = dataclasses.replace(machine, memory_read=args.memory * 1e9)
    if args.disk:
        machine = dataclasses.replace(machine, disk_read=args.disk * 1e9)
    if args.tflops:
        machine = dataclasses.replace(machine, gemm=dict.fromkeys(("float32", "bfloat16"), args.tflops * 1e12))
    return machine


def print_machine(console: Console, values: dict) -> None:
    from rich.table import Table

    gemm = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in values["gemm"].items())
    disk = "unknown (no O_DIRECT)" if values["disk_read"] is None else f"{values['disk_read'] / 1e9:,.2f} GB/s"
    name = f"this machine: {values['cpu']}, {values['threads']} threads"
    console.print(
        f"{'a machine' if values['cpu'] == DESCRIBED else name}, {values['memory'] / 1e9:,.1f} GB; "
        f"reads {values['memory_read'] / 1e9:,.1f} GB/s from memory, {disk} from disk; {gemm}"
    )
    if values["tuning"]:
        fields = ", ".join(f"{name} {value}" for name, value in values["tuning"].items())
        console.print(f"tuning of the kernels: {fields}", highlight=False)
    needed = values["needed"]
    parts = ", ".join(f"{name} {needed[name] / 1e9:,.1f}" for name in ("dense", "routed", "cache"))
    console.print(f"GB: {parts}", highlight=False)
    share = values["routed_in_memory"]
    if share < 1:
        console.print(f"{100 * share:.0f} % of the routed experts fit in memory; the others are read from disk")
    table = Table("tokens/s", "expected", "at best", "limit", "ms a token by each limit", title="predicted")
    for name in ("decode", "prefill"):
        limits = ", ".join(f"{limit} {1e3 * seconds:,.2f}" for limit, seconds in values[name]["seconds"].items())
        expected, best = (f"{values[name][rate]:,.1f}" for rate in ("expected_per_s", "tokens_per_s"))
        table.add_row(name, expected, best, values[name]["limit"], limits)
    console.print(table)
