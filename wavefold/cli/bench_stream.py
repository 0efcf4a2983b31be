"""`wavefold bench stream`: a model larger than its memory, beside the rate of the disk."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.models import add_arithmetic, arithmetic_of

if TYPE_CHECKING:
    from wavefold.bench.stream import Row

HELP = "decode and prompt with routed experts read from disk under a budget, beside the rate of the disk"
REPEATS = 3
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint folder")
    parser.add_argument("--memory", required=True, metavar="SIZE", help="the most resident memory, as 4G")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="tokens to decode (default 32)")
    parser.add_argument("--prompt", type=int, default=256, metavar="N", help="tokens of the prompt (default 256)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: one a core)")
    add_arithmetic(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what lies where, then a line for prompt and decode, medians over turns."""
    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances, kernels_in_use
    from wavefold.bench.stream import measure
    from wavefold.cli.budget import print_budget
    from wavefold.llm import LLM
    from wavefold.system import peak_rss_bytes

    about = circumstances(args.repeats) | {"bench": "stream", "kernels": kernels_in_use(), "memory": args.memory}
    lines: list[dict[str, object]] = []
    table = Table("", "tokens/s", "range", "MB a token", "no wait", "ahead, used", "disk, GB/s", "of disk",
                  title=f"{args.model} under {args.memory}; {about['hardware']}")  # fmt: skip
    with LLM(args.model, arithmetic_of(args), threads=args.threads, memory=args.memory, prefix_cache=False) as llm:
        assert llm.budget is not None
        print_budget(Console(stderr=True), llm.budget)
        turns: list[list[Row]] = []
        with Console(stderr=True).status("disk") as status:
            for turn in range(args.repeats):
                turns.append(
                    measure(llm.model, args.tokens, args.prompt, llm.budget.step_tokens, turn, status.update)
                )  # fmt: skip
        given_back = llm.model.experts.store.counts.given_back()  # type: ignore[attr-defined]
    for rows in zip(*turns, strict=True):
        table.add_row(*cells(rows))
        lines += [about | vars(row) | {"share": row.share} for row in rows]
    Console().print(table)
    Console().print(f"largest resident memory: {peak_rss_bytes() / 2**30:.2f} GiB; {given_back}")
    if args.out:
        append(args.out, lines)
    return 0


def cells(rows: tuple[Row, ...]) -> list[str]:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    rates = [row.rate for row in rows]
    ahead = sum(row.ahead_used for row in rows), sum(row.ahead_used + row.ahead_unused for row in rows)
    return [
        rows[0].name,
        f"{median(rates):.2f}",
        f"{min(rates):.2f}-{max(rates):.2f}",
        f"{median([row.bytes_read / row.tokens for row in rows]) / 1e6:.0f}",
        f"{median([row.hit_rate for row in rows]):.0%}",
        f"{ahead[0]:,} of {ahead[1]:,}",
        f"{median([row.disk for row in rows]) / GB:.2f}",
        f"{median([row.share for row in rows]):.0%}",
    ]
