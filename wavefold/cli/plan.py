"""`wavefold plan`: what a model costs, before it is downloaded: weights, operations, cache."""

from __future__ import annotations

import argparse
import dataclasses
import json

from wavefold.cli.init import config_of

HELP = "count a model's tensors, operations and cache bytes from its configuration"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|PRESET", help="a checkpoint folder, a config.json, or a preset")
    parser.add_argument("--context", type=int, default=1_000_000, metavar="N", help="tokens (default 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the plan at one length, by part and precision, under each convention, and the sweep."""
    from wavefold.plan.summary import plan

    config = config_of(args.model)
    one = plan(config, args.context)
    if args.json:
        print(json.dumps(dataclasses.asdict(one)))
        return 0

    from rich.console import Console
    from rich.table import Table

    from wavefold.plan.flops import CONVENTIONS, decode_flops
    from wavefold.plan.summary import flops_ratio, sweep
    from wavefold.plan.tensors import tensor_kinds

    console = Console()
    weights = Table("precision", "parameters", "active", title=f"weights: {one.weight_bytes / 1e9:,.2f} GB, "
                    f"{one.num_tensors:,} tensors")  # fmt: skip
    kinds = tensor_kinds(config)
    for precision in ("fp4", "fp8", "bf16", "fp32"):
        mine = [kind for kind in kinds if kind.precision == precision]
        values, active = sum(k.values for k in mine), sum(k.active_values for k in mine)
        weights.add_row(precision, f"{values / 1e9:,.3f} B", f"{active / 1e9:,.3f} B")
    weights.add_row("all", f"{one.params / 1e9:,.3f} B", f"{one.active_params / 1e9:,.3f} B")
    console.print(weights)

    flops = decode_flops(config, args.context)
    parts = Table("convention", *flops.weighted(CONVENTIONS[0]), "all", "of V3.2",
                  title=f"GFLOPs of a token decoded at {args.context:,} tokens")  # fmt: skip
    for convention in CONVENTIONS:
        figures = [*flops.weighted(convention).values(), flops.total(convention)]
        ratio = flops_ratio(config, args.context, convention)
        parts.add_row(convention.name, *(f"{figure / 1e9:,.1f}" for figure in figures), f"{100 * ratio:.2f} %")
    console.print(parts)

    course = Table("context", "GFLOPs", "of V3.2", "KV cache", "of V3.2", "of BF16 GQA-8",
                   title="from 4K to 1M tokens, equivalent FP8 FLOPs, packed records")  # fmt: skip
    for row in [*sweep(config), one]:
        course.add_row(f"{row.context:,}", f"{row.flops_per_token / 1e9:,.1f}", f"{100 * row.flops_ratio_v32:.2f} %",
                       f"{row.kv_bytes / 2**30:,.3f} GiB", f"{100 * row.kv_ratio_v32:.2f} %",
                       f"{100 * row.kv_ratio_gqa8:.2f} %")  # fmt: skip
    console.print(course)
    console.print(f"and {one.state_bytes / 1e6:,.1f} MB of state for each sequence: windows and compressor tails")
    return 0
