"""One token through weights of each stored format by the CPU kernels: bytes a second beside the rate of memory.

Each run streams over distinct matrices, more than any cache holds. Each matrix is a call from Python: with 2,048 rows
its 10 us count. The memory's rate is measured before each run, by the best of torch's reductions on as many threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from wavefold import ops
from wavefold.bench.limits import MemoryMeter
from wavefold.bench.matrices import matrices, stored_bytes
from wavefold.ops import native
from wavefold.ops.threads import use_threads
from wavefold.quant import FORMATS, Weight
from wavefold.system import check_memory

FORMS = ("fp4", "fp8", "bf16", "f16", *(name for name, form in FORMATS.items() if form.is_packed))


@dataclass
class GemvRow:
    """One format at one number of threads: bytes a second of the product and of the memory in each turn."""

    form: str
    threads: int
    num_bytes: int
    rates: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def share(self) -> float:
        """The product's share of the memory's rate: the median over turns."""
        return statistics.median(rate / limit for rate, limit in zip(self.rates, self.memory, strict=True))


def measure(
    forms: Sequence[str], threads: Sequence[int], rows: int, columns: int, skip: int, num_bytes: int, repeats: int,
    report: Callable[[str], None] = lambda step: None, activations: str = "bf16",
) -> Iterator[GemvRow]:  # fmt: skip
    """Yields a row for each format and number of threads. The process keeps the last number of threads.

    `num_bytes` are those of all matrices of a format. Raises ValueError for formats, sizes and threads that cannot be.
    """
    if other := [form for form in forms if form not in FORMS]:
        raise ValueError(f"format {other[0]} is not allowed; expected some of {', '.join(FORMS)}")
    largest = max(stored_bytes(form, rows, columns) for form in forms)
    check_memory(num_bytes + 3 * largest, f"GEMV over {num_bytes / 2**30:.2f} GiB", "a smaller --gib")
    x = torch.randn(1, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    memory, runtime = MemoryMeter(), ops.current().but(activations=activations)
    for form in forms:
        report(f"{form}: drawing {rows} x {columns}")
        weights = matrices(form, rows, columns, num_bytes, skip)
        total = len(weights) * stored_bytes(form, rows, columns)

        def run(weights: Sequence[Weight] = weights) -> float:
            with runtime.active():
                began = time.perf_counter()
                for weight in weights:
                    native.linear(x, weight, torch.float32)
                return time.perf_counter() - began

        for count in threads:
            use_threads(count)
            row = GemvRow(form, count, total)
            run()
            for turn in range(repeats):
                report(f"{form}, {count} threads, turn {turn + 1} of {repeats}")
                row.memory.append(memory.rate())
                row.rates.append(total / run())
            yield row
