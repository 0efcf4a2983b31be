"""What docs/processors.md says, shown again on this machine: products by the kernels, with tunings that take turns.

    python bench/processors.py [--threads N] [--turns N] [--mib N]

Each line is a ratio of two things that were timed in the same turns: rates of GB/s alone depend on other load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from wavefold import ops
from wavefold.bench.circumstances import circumstances
from wavefold.bench.matrices import matrices, stored_bytes
from wavefold.ops import native
from wavefold.ops.tuning import HINTS, TWO_WAYS, usual
from wavefold.quant import Weight
from wavefold.system import huge_memory

COLUMNS, ROWS = 4096, 2048
NEAR_ROWS = 128
"""Rows of a matrix that a core's second cache holds, in every format."""


@dataclass
class Line:
    """GB/s of a thing beside those of another, medians over turns, and the median of the ratios."""

    what: str
    rate: float
    beside: str
    other: float
    ratio: float


def turns_of(cases: dict[str, Callable[[], float]], base: str, turns: int, what: str) -> Iterator[Line]:
    """Yields a line for each case beside `base`. A case returns bytes a second."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns + 1):
        for name in list(cases)[:: 1 if turn % 2 else -1]:
            time.sleep(1e-3)  # threads of another runtime poll for a while, on the same cores
            rate = cases[name]()
            if turn:
                rates[name].append(rate)
    for name in cases:
        if name != base:
            ratio = statistics.median(x / y for x, y in zip(rates[name], rates[base], strict=True))
            rate, other = (statistics.median(rates[case]) / 1e9 for case in (name, base))
            yield Line(f"{what}, {name}", rate, base, other, ratio)


def product(
    weights: list[Weight], form: str, x_rows: int, runtime: ops.Runtime, rows: int = ROWS
) -> Callable[[], float]:
    """Returns a case: all weights, one after another."""
    x = torch.randn(x_rows, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()
    num_bytes = len(weights) * stored_bytes(form, rows, COLUMNS)

    def run() -> float:
        with runtime.active():
            native.linear(x, weights[-1], torch.float32)
            began = time.perf_counter()
            for weight in weights:
                native.linear(x, weight, torch.float32)
            return num_bytes / (time.perf_counter() - began)

    return run


def hints(weights: dict[str, list[Weight]], threads: int, turns: int) -> Iterator[Line]:
    """Kinds of hints, for one row and for four: the second level is the base."""
    for form, matrix in weights.items():
        for x_rows in (1, 4):
            cases = {
                hint: product(
                    matrix, form, x_rows, ops.Runtime(threads, tuning=usual()._replace(hint=hint, plain_hint=hint))
                )
                for hint in HINTS
            }
            yield from turns_of(cases, "l2", turns, f"{form}, {x_rows} rows, hint")


def rows(weights: dict[str, list[Weight]], threads: int, turns: int) -> Iterator[Line]:
    """Few rows beside one row: 1.00 means that the rows are free, bound by memory alone."""
    for form, matrix in weights.items():
        runtime = ops.Runtime(threads)
        cases = {f"{count} rows": product(matrix, form, count, runtime) for count in (1, 2, 4, 8)}
        yield from turns_of(cases, "1 rows", turns, form)


def units(weights: dict[str, list[Weight]], threads: int, turns: int) -> Iterator[Line]:
    """One row from memory beside one row from a near cache: 1.00 means bound by the core."""
    for form, matrix in weights.items():
        runtime = ops.Runtime(threads)
        near = matrices(form, NEAR_ROWS, COLUMNS, 1)[:1] * 64
        cases = {
            "from memory": product(matrix, form, 1, runtime),
            "from a near cache": product(near, form, 1, runtime, NEAR_ROWS),
        }
        yield from turns_of(cases, "from a near cache", turns, f"{form}, 1 row")


def kinds(weights: dict[str, list[Weight]], threads: int, turns: int) -> Iterator[Line]:
    """float32 multiply-adds beside products of bfloat16."""
    if TWO_WAYS[0] not in ops.isas():
        return
    for form, matrix in weights.items():
        for x_rows in (1, 8, 64):
            cases = {
                name: product(matrix[:2], form, x_rows, ops.Runtime(threads, tuning=usual()._replace(float_rows=value)))
                for name, value in (("float32", 1), ("bfloat16", 0))
            }
            yield from turns_of(cases, "bfloat16", turns, f"{form}, {x_rows} rows")


def pages(weights: dict[str, list[Weight]], threads: int, turns: int) -> Iterator[Line]:
    """The same weights in anonymous memory of 2 MiB pages, beside pages as they come."""
    for form, matrix in weights.items():
        copies = []
        for weight in matrix:
            memory = huge_memory(weight.codes.nbytes)
            codes = torch.frombuffer(memory, dtype=torch.uint8).view(weight.codes.dtype).view(weight.codes.shape)
            copies.append(Weight.of(codes.copy_(weight.codes), weight.scales))
        runtime = ops.Runtime(threads)
        cases = {"usual": product(matrix, form, 1, runtime), "2 MiB": product(copies, form, 1, runtime)}
        yield from turns_of(cases, "usual", turns, f"{form}, 1 row, pages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--turns", type=int, default=7, metavar="N")
    parser.add_argument("--mib", type=int, default=128, metavar="N", help="weights of a format, more than any cache")
    parser.add_argument("--only", choices=("hints", "rows", "units", "kinds", "pages"))
    parser.add_argument("--out", type=Path, help="file to append JSON lines to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    weights = {form: matrices(form, ROWS, COLUMNS, args.mib << 20) for form in ("fp4", "fp8", "bf16")}
    about = circumstances(args.turns) | {"bench": "processors", "isa": ops.isas()[0], "load": os.getloadavg()[0]}
    print(f"{about['hardware']}, {args.threads} threads, {about['isa']}, load {about['load']:.1f}, {args.turns} turns")
    for measure in (hints, rows, units, kinds, pages):
        if args.only not in (None, measure.__name__):
            continue
        for line in measure(weights, args.threads, args.turns):
            print(f"{line.what:34} {line.rate:6.1f} GB/s; {line.beside:18} {line.other:6.1f}; ratio {line.ratio:.2f}",
                  flush=True)  # fmt: skip
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(about | asdict(line)) + "\n")


if __name__ == "__main__":
    main()
