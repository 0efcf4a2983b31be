"""Seconds of products by tuning, for `bench/tune.py`: random weights that no cache holds, a runtime for each tuning."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from wavefold import ops
from wavefold.bench.matrices import matrices, stored_bytes
from wavefold.ops import native
from wavefold.ops.tuning import Tuning
from wavefold.quant import Weight
from wavefold.system import check_memory

COLUMNS = 4096
ROWS = 4096
TALL = 512
"""Rows of the weights that many rows of x meet: there arithmetic counts, not memory."""
LEAST, MOST = 64 << 20, 1 << 30
"""Bytes of the weights of a format."""
RUN_S = 1.5e-3
"""Seconds of a timed run of one row, about."""
SETTLE_S = 4e-4
"""Threads of the runtime before poll so long before they sleep, on the same cores."""
FEW = 8


class Stopwatch:
    """Times products of weights in three formats on `threads` threads. Owns the weights and the runtimes."""

    def __init__(self, threads: int, forms: tuple[str, ...]):
        """Raises ValueError where memory does not hold the weights."""
        self._threads = threads
        num_bytes = min(MOST, max(LEAST, 2 * last_cache_bytes()))
        check_memory(len(forms) * (num_bytes + (32 << 20)), "the weights of bench tune", "more free memory")
        self._weights = {form: matrices(form, ROWS, COLUMNS, num_bytes) for form in forms}
        self._tall = {form: matrices(form, max(TALL, 64 * threads), COLUMNS, 1) for form in forms}
        self._next = dict.fromkeys(forms, 0)
        self._each_s: dict[str, float] = {}
        self._runtimes: dict[Tuning, ops.Runtime] = {}
        self._x = torch.randn(512, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()

    def __call__(self, tuning: Tuning, form: str, x_rows: int) -> float:
        """Returns the seconds of a product, the mean of a run; a first one wakes the threads and does not count."""
        runtime = self._runtimes.get(tuning)
        if runtime is None:
            runtime = self._runtimes[tuning] = ops.Runtime(threads=self._threads, tuning=tuning)
        x = self._x[:x_rows]
        time.sleep(SETTLE_S)
        with runtime.active():
            if x_rows > FEW:
                weight = self._tall[form][0]
                _run(x[:1], [weight])
                return _run(x, [weight])
            _run(x, self._following(form, 1))
            if form not in self._each_s:
                self._each_s[form] = _run(x, self._following(form, 1))
            count = max(1, min(len(self._weights[form]), int(RUN_S / self._each_s[form])))
            return _run(x, self._following(form, count)) / count

    def _following(self, form: str, count: int) -> list[Weight]:
        weights, first = self._weights[form], self._next[form]
        self._next[form] = (first + count) % len(weights)
        return [weights[(first + i) % len(weights)] for i in range(count)]

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights that one row runs through."""
        return sum(len(weights) * stored_bytes(form, ROWS, COLUMNS) for form, weights in self._weights.items())


def _run(x: Tensor, weights: list[Weight]) -> float:
    began = time.perf_counter()
    for weight in weights:
        native.linear(x, weight, torch.float32)
    return time.perf_counter() - began


def last_cache_bytes(root: Path = Path("/")) -> int:
    """Returns the bytes of all caches of the last level together; 0 where the system does not say."""
    sizes: dict[str, int] = {}
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index3"):
        try:
            shared, size = (folder / "shared_cpu_list").read_text(), (folder / "size").read_text().strip()
        except OSError:
            continue
        if size.endswith("K") and size[:-1].isdigit():
            sizes[shared] = int(size[:-1]) << 10
    return sum(sizes.values())
