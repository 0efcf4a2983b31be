"""`wavefold bench gemv`: one token through weights of each format, beside the rate of memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from wavefold.cli.models import add_activations

if TYPE_CHECKING:
    from wavefold.bench.gemv import GemvRow

HELP = "one token through weights of each stored format, beside the rate of memory"
REPEATS = 5
GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forms", nargs="+", default=["fp4", "fp8", "bf16"], metavar="FORM",
                        help="stored formats, GGUF's among them, as q4_k (default fp4 fp8 bf16)")  # fmt: skip
    add_activations(parser)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="CPU threads (default 1 2)")
    parser.add_argument("--rows", type=int, default=16384, metavar="N", help="rows of a matrix (default 16384)")
    parser.add_argument("--columns", type=int, default=4096, metavar="N", help="columns of a matrix (default 4096)")
    parser.add_argument("--skip", type=int, default=8, metavar="N",
                        help="bytes from a cache line to a matrix (default 8)")  # fmt: skip
    parser.add_argument("--gib", type=float, default=1.25, metavar="X",
                        help="GiB of matrices, more than any cache (default 1.25)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """One line of the table, and of JSON, for each format and number of threads."""
    from rich.console import Console
    from rich.table import Table

    from wavefold.bench.circumstances import append, circumstances, kernels_in_use
    from wavefold.bench.gemv import measure

    if not 0 <= args.skip < 64:
        raise ValueError(f"--skip {args.skip} is not allowed; expected 0 to 63")
    about = circumstances(args.repeats) | {"bench": "gemv", "kernels": kernels_in_use()}
    about |= {"activations": args.activations}
    kernels = f"kernels {about['kernels']}, {args.activations} activations"
    title = f"{args.rows:,} x {args.columns:,}; {kernels}; {about['hardware']}"
    table = Table("form", "threads", "GB/s", "spread", "memory GB/s", "of memory", title=title)
    lines: list[dict[str, object]] = []
    with Console(stderr=True).status("drawing") as status:
        rows = measure(args.forms, args.threads, args.rows, args.columns, args.skip, int(args.gib * 2**30),
                       args.repeats, status.update, args.activations)  # fmt: skip
        for row in rows:
            table.add_row(*cells(row))
            lines.append(about | line(row) | {"rows": args.rows, "columns": args.columns, "skip": args.skip})
    Console().print(table)
    if args.out:
        append(args.out, lines)
    return 0


def cells(row: GemvRow) -> list[str]:
    spread = f"{min(row.rates) / GB:.1f}-{max(row.rates) / GB:.1f}"
    memory = f"{min(row.memory) / GB:.1f}-{max(row.memory) / GB:.1f}"
    return [row.form, str(row.threads), f"{row.rate / GB:.1f}", spread, memory, f"{row.share:.0%}"]


def line(row: GemvRow) -> dict[str, object]:
    return {
        "form": row.form, "threads": row.threads, "bytes": row.num_bytes, "bytes_per_s": row.rates,
        "memory_bytes_per_s": row.memory, "share": row.share,
    }  # fmt: skip
