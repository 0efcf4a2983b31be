"""`wavefold bench cache`: a cache as it is allocated, beside the plan."""

from __future__ import annotations

import argparse
from dataclasses import asdict

HELP = "allocate and touch a cache; resident memory beside the plan"
REPEATS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL|PRESET", nargs="+", help="model folders, config.json files or presets")
    parser.add_argument("--tokens", type=int, default=1_000_000, metavar="N", help="tokens (default 1000000)")
    parser.add_argument("--records", nargs="+", default=["packed"], metavar="NAME", help="packed, bfloat16, float32")


def run(args: argparse.Namespace) -> int:
    """One line for each model and record, and an exit code of 1 where memory is more than 1 % off the plan."""
    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances
    from wavefold.bench.pools import allocate
    from wavefold.locate import config_of

    about = circumstances(args.repeats) | {"bench": "cache"}
    table = Table("model", "records", "tokens", "planned GiB", "allocated GiB", "resident GiB", "resident / planned",
                  title=f"a pool and one sequence, allocated and touched; {about['hardware']}")  # fmt: skip
    lines: list[dict[str, object]] = []
    far = False
    for name in args.model:
        config = config_of(name)
        for records in args.records:
            for number in range(args.repeats):
                row = allocate(config, args.tokens, records)
                ratio = row.rss_bytes / row.planned_bytes
                far |= abs(ratio - 1) > 0.01
                sizes = (f"{size / 2**30:.4f}" for size in (row.planned_bytes, row.allocated_bytes, row.rss_bytes))
                table.add_row(name, records, f"{args.tokens:,}", *sizes, f"{ratio:.4f}")
                lines.append(about | {"model": name, "run": number} | asdict(row))
    Console().print(table)
    if args.out:
        append(args.out, lines)
    return int(far)
