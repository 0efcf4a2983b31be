"""One token through FP4, FP8 and bfloat16 weights by the CPU kernels: bytes a second beside the rate of memory.

    python bench/gemv.py [--threads 1 2] [--rows 16384] [--skip 8] [--gib 1.25] [--repeats 5]

Streams over distinct random matrices of `rows` x 4096, `gib` in all, so that no cache holds them. Each is a call from
Python: with 2,048 rows its 10 us count. They begin `skip` bytes after a cache line, as in a mapped file they may.
Prints a table and one JSON line.
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
from wavefold.plan.machine import memory_read_rate
from wavefold.quant import Weight

COLUMNS = 4096


def matrices(form: str, gib: float, rows: int, skip: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weights of random bytes with scales around 1."""
    stored = []
    left = gib * 2**30
    while left > 0:
        if form == "fp4":
            weight = torch.randint(0, 256, (rows, COLUMNS // 2), dtype=torch.uint8).view(torch.int8)
            scale = torch.randint(120, 130, (rows, COLUMNS // 32), dtype=torch.uint8)
        elif form == "fp8":
            weight = torch.randint(0, 126, (rows, COLUMNS), dtype=torch.uint8).view(torch.float8_e4m3fn)
            scale = torch.randint(110, 120, (rows // 128, COLUMNS // 128), dtype=torch.uint8)
        else:
            weight, scale = torch.randn(rows, COLUMNS).bfloat16(), None
        stored.append((placed(weight, skip), None if scale is None else scale.view(torch.float8_e8m0fnu)))
        left -= size_of(stored[-1])
    return stored


def placed(weight: torch.Tensor, skip: int) -> torch.Tensor:
    """A copy of the weight, `skip` bytes after the beginning of a cache line."""
    num_bytes = weight.numel() * weight.element_size()
    space = torch.empty(num_bytes + 128, dtype=torch.uint8)
    first = -space.data_ptr() % 64 + skip
    return space[first : first + num_bytes].view(weight.dtype).view(weight.shape).copy_(weight)


def size_of(matrix: tuple[torch.Tensor, torch.Tensor | None]) -> int:
    return sum(part.numel() * part.element_size() for part in matrix if part is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=16384, help="of a matrix (16384)")
    parser.add_argument("--skip", type=int, default=8, help="bytes from a cache line to a weight (8)")
    parser.add_argument("--gib", type=float, default=1.25)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    table = Table("form", "threads", "GB/s", "spread", "memory GB/s", "of memory", title=f"GEMV, {ops.current().isa}")
    lines = []
    x = torch.randn(1, COLUMNS).bfloat16()
    for form in ("fp4", "fp8", "bf16"):
        weights = matrices(form, args.gib, args.rows, args.skip)
        total = sum(map(size_of, weights))
        for threads in args.threads:
            torch.set_num_threads(threads)
            memory = memory_read_rate() / 1e9
            rates = []
            for _ in range(args.repeats + 1):
                began = time.perf_counter()
                for weight, scale in weights:
                    native.linear(x, Weight.of(weight, scale), torch.float32)
                rates.append(total / (time.perf_counter() - began) / 1e9)
            rates = rates[1:]
            rate = statistics.median(rates)
            row = {"form": form, "threads": threads, "gbps": rate, "memory_gbps": memory}
            lines.append(row | {"least": min(rates), "most": max(rates)})
            spread = f"{min(rates):.1f}-{max(rates):.1f}"
            table.add_row(form, str(threads), f"{rate:.1f}", spread, f"{memory:.1f}", f"{100 * rate / memory:.0f} %")
    Console().print(table)
    print(
        json.dumps(
            circumstances(args.repeats) | {"bench": "gemv", "matrix_rows": args.rows, "skip": args.skip, "rows": lines}
        )
    )


if __name__ == "__main__":
    main()
