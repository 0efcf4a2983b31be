"""Products with int8 activations beside the default ones, in turns: FP4 and FP8 matrices, a few rows of x and many.

    python bench/int8.py [--rows 1 4 16 512] [--size 4096] [--matrices 8] [--repeats 9] [--threads 2] [--isa NAME]

A turn multiplies `matrices` distinct ones of size x size by both. Prints a table (medians of the turns; the ratio is
the median of the turns' ratios, with its range) and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from wavefold import ops
from wavefold.bench.circumstances import circumstances
from wavefold.ops import native
from wavefold.quant import Weight


def weight_of(form: str, size: int) -> Weight:
    """A random matrix whose values are normal."""
    from wavefold.quant import quantize_fp4, quantize_fp8

    values = torch.randn(size, size)
    return Weight.of(*(quantize_fp4(values) if form == "fp4" else quantize_fp8(values)))


def seconds(runtime: ops.Runtime, x: torch.Tensor, weights: list[Weight]) -> float:
    """Seconds for x through all weights."""
    with runtime.active():
        began = time.perf_counter()
        for weight in weights:
            native.linear(x, weight, torch.bfloat16)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 512], help="rows of x (1 4 16 512)")
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of a matrix (4096)")
    parser.add_argument("--matrices", type=int, default=8, help="distinct ones in a turn (8; 1 stays in the cache)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=ops.isas())
    parser.add_argument("--forms", nargs="+", choices=("fp4", "fp8"), default=["fp4", "fp8"])
    args = parser.parse_args()
    default, int8 = (ops.Runtime(args.threads, args.isa, activations=name) for name in ops.ACTIVATIONS)
    table = Table("form", "rows", "default, ms", "int8, ms", "default / int8", "range", "int8, GOP/s",
                  title=f"{args.size} x {args.size}, {default.isa}, {args.threads} threads")  # fmt: skip
    lines = []
    for form in args.forms:
        weights = [weight_of(form, args.size) for _ in range(args.matrices)]
        for rows in args.rows:
            x = torch.randn(rows, args.size).bfloat16()
            used = weights if rows < 64 else weights[:1]
            turns = [(seconds(default, x, used), seconds(int8, x, used)) for _ in range(args.repeats + 1)][1:]
            before, after = (statistics.median(column) / len(used) for column in zip(*turns, strict=True))
            ratios = [a / b for a, b in turns]
            row = {"form": form, "rows": rows, "default_s": before, "int8_s": after}
            lines.append(row | {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)})
            spread, rate = f"{min(ratios):.2f}-{max(ratios):.2f}", 2e-9 * rows * args.size**2 / after
            table.add_row(form, str(rows), f"{1e3 * before:.3f}", f"{1e3 * after:.3f}",
                          f"{statistics.median(ratios):.2f}", spread, f"{rate:.0f}")  # fmt: skip
    Console().print(table)
    print(json.dumps(circumstances(args.repeats) | {"bench": "int8", "size": args.size, "rows": lines}))


if __name__ == "__main__":
    main()
