"""`wavefold bench rows`: products of 1 to 64 rows, dense and of routed experts, beside the machine's bound."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from wavefold.cli.models import add_arithmetic, arithmetic_of
from wavefold.cli.terminal import wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from wavefold.bench.rows import ProductRow, Subjects

HELP = "products of 1 to 64 rows, dense and of routed experts, beside the machine's bound"
REPEATS = 5
GB = 1e9
FILE_WIDTH = 110
"""Columns of a table that is not printed on a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 12, 16, 32, 64], metavar="N",
                        help="rows of x (default 1 2 4 8 12 16 32 64)")  # fmt: skip
    parser.add_argument("--forms", nargs="*", default=["fp8", "bf16"], choices=("fp4", "fp8", "bf16"),
                        help="formats of dense matrices (default fp8 bf16)")  # fmt: skip
    parser.add_argument("--shapes", nargs="*", default=["1024x4096", "4096x8192", "32768x1024"], metavar="ROWSxCOLUMNS",
                        help="sizes of dense matrices (default Flash's wq_a, wo_b and wq_b: 1024x4096 4096x8192 "
                        "32768x1024)")  # fmt: skip
    parser.add_argument("--gib", type=float, default=0.5, metavar="X",
                        help="GiB of matrices of a format and shape, more than any cache (default 0.5)")  # fmt: skip
    parser.add_argument("--config", default="flash", metavar="MODEL|PRESET",
                        help="whose sizes the experts have: a preset or config.json (default flash)")  # fmt: skip
    parser.add_argument("--experts", type=int, default=32, metavar="N",
                        help="experts of a layer in memory (default 32; 0: no experts)")  # fmt: skip
    parser.add_argument("--layers", type=int, default=2, metavar="N",
                        help="layers of experts, taken in turn (default 2)")  # fmt: skip
    add_arithmetic(parser)
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--against", type=Path, metavar="LIBRARY",
                        help="another build of the kernels, which takes turns")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """One line of the table, and of JSON, for each number of threads, product and number of rows."""
    import torch
    from rich.console import Console

    from wavefold.bench.circumstances import append, circumstances, kernels_in_use
    from wavefold.bench.rows import measure

    subjects, kernels = subjects_of(args), kernels_in_use()
    threads = args.threads or [torch.get_num_threads()]
    with Console(stderr=True).status("measuring") as status:
        rows = measure(subjects, args.rows, threads, args.repeats, args.against, status.update)
    about = circumstances(args.repeats) | {
        "bench": "rows", "kernels": kernels, "arithmetic": subjects.arithmetic,
        "against": args.against and str(args.against),
    }  # fmt: skip
    console = wide_console(FILE_WIDTH)
    console.print(f"{subjects.arithmetic} arithmetic; kernels {about['kernels']}; {about['hardware']}; the bound: "
                  "weights, each once, at the rate of memory, or operations at the faster of torch's dense float32 "
                  "and bfloat16", soft_wrap=True, highlight=False)  # fmt: skip
    for count in threads:
        console.print(table([row for row in rows if row.threads == count]))
    if args.out:
        append(args.out, [about | line(row) for row in rows])
    return 0


MOST_ROWS = 8192


def subjects_of(args: argparse.Namespace) -> Subjects:
    """The products of the flags. Raises ValueError for sizes that cannot be."""
    from wavefold.bench.products import expert_shape
    from wavefold.bench.rows import Subjects
    from wavefold.locate import config_of

    if not all(1 <= count <= MOST_ROWS for count in args.rows):
        raise ValueError(f"--rows {args.rows} is not allowed; expected 1 or more of x, at most {MOST_ROWS}")
    experts = expert_shape(config_of(args.config), args.experts, args.layers) if args.experts else None
    shapes = tuple(shape_of(text) for text in args.shapes)
    return Subjects(tuple(args.forms), shapes, int(args.gib * 2**30), experts, args.layers, arithmetic_of(args))


def shape_of(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdigit() and columns.isdigit()):
        raise ValueError(f"--shapes {text} is not allowed; expected ROWSxCOLUMNS, as in 4096x8192")
    return int(rows), int(columns)


def table(rows: list[ProductRow]) -> Table:
    """A table of the rows of one number of threads, each with its bound; the rates that give it are the title."""
    from rich.table import Table

    compared = any(row.against for row in rows)
    columns = ["product", "rows", "experts", "ms", "slowest", "GB/s", "GFLOP/s", "of the bound"]
    shown = Table(*columns, *(["other ms", "other / this"] if compared else []), title=rates(rows[0]))
    shown.columns[0].no_wrap = True
    for row in rows:
        cells = [
            row.product, str(row.x_rows), "" if row.distinct_experts is None else f"{row.distinct_experts:.1f}",
            milliseconds(row.median_s), milliseconds(max(row.seconds)), f"{row.bytes / row.median_s / GB:.1f}",
            f"{row.operations / row.median_s / GB:.0f}", f"{row.share:.0%} {row.limit}",
        ]  # fmt: skip
        if compared:
            cells += [milliseconds(median(row.against)), f"{row.ratio:.2f}"]
        shown.add_row(*cells)
    return shown


def rates(row: ProductRow) -> str:
    """The number of threads, and the machine's rates in the turns of a row."""
    memory, dense = [limits.memory for limits in row.limits], [limits.best_dense for limits in row.limits]
    return (
        f"{row.threads} threads, memory {min(memory) / GB:.1f}-{max(memory) / GB:.1f} GB/s, "
        f"dense {min(dense) / GB:.0f}-{max(dense) / GB:.0f} GFLOP/s"
    )


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds >= 0.01 else f"{1e3 * seconds:.3f}"


def line(row: ProductRow) -> dict[str, object]:
    subject = {"product": row.product, "threads": row.threads, "x_rows": row.x_rows}
    more = {"distinct_experts": row.distinct_experts, "against_seconds": row.against, "ratio": row.ratio}
    return subject | row.figures() | more
