"""The least time that a product may take on this machine: its bytes read once, or its operations at the dense rate.

Both rates are measured where the bound is used, with the same number of threads: on a shared machine they change by
half within minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from wavefold.plan import machine
from wavefold.plan.machine import GEMM_DTYPES

DENSE_DTYPES: Mapping[str, tuple[str, ...]] = {"exact": GEMM_DTYPES, "released": GEMM_DTYPES}
"""The dtypes of torch's dense products that bound an arithmetic: the faster one counts.

Both arithmetics multiply in bfloat16 and sum in float32. On a processor without bfloat16 products float32 is faster.
"""


@dataclass(frozen=True)
class Limits:
    """Rates of one moment: bytes read a second, and operations a second of a dense product by dtype."""

    memory: float
    dense: Mapping[str, float]

    @property
    def best_dense(self) -> float:
        return max(self.dense.values())

    def bound(self, num_bytes: float, operations: float) -> tuple[float, str]:
        """Returns the least seconds for these bytes and operations, and the limit's name: "memory" or "dense"."""
        seconds = {"memory": num_bytes / self.memory, "dense": operations / self.best_dense}
        name = max(seconds, key=lambda limit: seconds[limit])
        return seconds[name], name


class Bounded:
    """What a row of a bench has that was timed in turns, each beside the limits of its moment."""

    bytes: float
    operations: float
    seconds: list[float]
    """Of one call, in each turn."""
    limits: list[Limits]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def share(self) -> float:
        """The least time that the machine allows, as a share of the time taken: the median over turns."""
        bounds = (limits.bound(self.bytes, self.operations)[0] for limits in self.limits)
        return statistics.median(bound / seconds for bound, seconds in zip(bounds, self.seconds, strict=True))

    @property
    def limit(self) -> str:
        """The limit that binds in most turns: "memory" or "dense"."""
        return statistics.mode(limits.bound(self.bytes, self.operations)[1] for limits in self.limits)

    def figures(self) -> dict[str, object]:
        """Returns what was measured, for a line of JSON."""
        return {
            "bytes": self.bytes, "operations": self.operations, "seconds": self.seconds,
            "memory_bytes_per_s": [limits.memory for limits in self.limits],
            "dense_operations_per_s": [dict(limits.dense) for limits in self.limits],
            "share": self.share, "bound_by": self.limit,
        }  # fmt: skip


class MemoryMeter:
    """Measures the rate of reading memory again and again. It keeps a tensor of a GiB.

    The first measurement on a number of threads tries all reductions, later ones the fastest of them: a fifth of a
    second.
    """

    def __init__(self) -> None:
        self._reductions = machine.reductions()
        self._fastest: dict[int, Callable[[], object]] = {}

    def rate(self) -> float:
        """Bytes read a second, by all threads of torch."""
        threads = torch.get_num_threads()
        if (run := self._fastest.get(threads)) is not None:
            return machine.MEMORY_TENSOR / machine.fastest(run, 2)
        rates = [machine.best_rate(machine.MEMORY_TENSOR, run) for run in self._reductions]
        self._fastest[threads] = self._reductions[rates.index(max(rates))]
        return max(rates)


class LimitsMeter:
    """Measures the rates that bound products in `arithmetic`, on torch's threads."""

    def __init__(self, arithmetic: str):
        self._memory, self._dtypes = MemoryMeter(), DENSE_DTYPES[arithmetic]

    def measure(self) -> Limits:
        return Limits(self._memory.rate(), {dtype: machine.gemm_rate(dtype) for dtype in self._dtypes})
