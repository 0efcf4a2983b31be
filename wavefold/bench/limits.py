"""The least time that a product may take on this machine: its bytes read once, or its operations at the dense rate.

Both rates are measured where the bound is used, with the same number of threads: on a shared machine they change by
half within minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wavefold.plan.machine import GEMM_DTYPES, gemm_rate, memory_read_rate

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


def measure_limits(arithmetic: str) -> Limits:
    """Measures the rates that bound products in `arithmetic`, on torch's threads: about two seconds."""
    return Limits(memory_read_rate(), {dtype: gemm_rate(dtype) for dtype in DENSE_DTYPES[arithmetic]})
