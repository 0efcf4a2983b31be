"""The best rates of this machine: bytes read per second, GEMM operations per second, bytes from disk per second.

    memory   the fastest of three reductions over a tensor far larger than any cache
    GEMM     2048 x 2048 x 2048 through torch, for each dtype; smaller where a dtype is slow
    disk     a file read with O_DIRECT, past the page cache, eight reads at a time into pages of 2 MiB

Measured once and kept in the user's cache folder, until processor, thread count or torch change.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from wavefold.plan import measured
from wavefold.system import cpu_name, huge_memory

MEMORY_TENSOR = 1 << 30
GEMM_SIZE = 2048
DISK_FILE = 512 << 20
DISK_BLOCK = 8 << 20
DISK_IN_FLIGHT = 8
REPEATS = 5
SLOW_S = 2.0
SECTION = "rates"
GEMM_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Machine:
    """Rates in bytes or operations per second. `disk_read` is None where O_DIRECT is not to be had."""

    cpu: str
    threads: int
    torch: str
    memory_read: float
    gemm: Mapping[str, float]
    disk_read: float | None
    disk_folder: str

    @property
    def dense(self) -> float:
        """Operations per second in the dtype that is fastest here."""
        return max(self.gemm.values())

    def identity(self) -> tuple[str, int, str]:
        """The values on which the figures depend."""
        return self.cpu, self.threads, self.torch


def this_machine(path: Path, remeasure: bool = False, report: Callable[[str], None] = lambda step: None) -> Machine:
    """The figures in the file `path`, if they are this machine's; else new ones (half a minute), written there."""
    import torch

    machine = None if remeasure else _read(path)
    if machine is None or machine.identity() != (cpu_name(), torch.get_num_threads(), torch.__version__):
        machine = measure(path.parent, report)
        measured.keep(path, SECTION, asdict(machine))
    return machine


def measure(disk_folder: Path, report: Callable[[str], None] = lambda step: None) -> Machine:
    """Measure all rates, with a `report` before each step."""
    import torch

    report("memory: reading 1 GiB")
    memory = memory_read_rate()
    gemm = {}
    for name in GEMM_DTYPES:
        report(f"GEMM in {name}")
        gemm[name] = gemm_rate(name)
    report(f"disk: 512 MiB in {disk_folder}")
    disk = disk_read_rate(disk_folder)
    return Machine(cpu_name(), torch.get_num_threads(), torch.__version__, memory, gemm, disk, str(disk_folder))


def best_rate(amount: float, run: Callable[[], object]) -> float:
    """amount / seconds of the fastest of a few runs."""
    return amount / fastest(run, REPEATS)


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def memory_read_rate(num_bytes: int | None = None) -> float:
    """Bytes per second, all threads of torch reading the same `num_bytes` (None: MEMORY_TENSOR) again and again."""
    num_bytes = MEMORY_TENSOR if num_bytes is None else num_bytes
    return max(best_rate(num_bytes, run) for run in reductions(num_bytes))


def reductions(num_bytes: int | None = None) -> list[Callable[[], object]]:
    """Reductions that read a tensor of so many bytes (None: MEMORY_TENSOR).

    The fastest depends on threads and processor.
    """
    import torch

    x = torch.ones((MEMORY_TENSOR if num_bytes is None else num_bytes) // 4)
    return [x.sum, x.amax, lambda: torch.dot(x, x), x.view(torch.int32).amax]


def gemm_rate(dtype: str) -> float:
    """Operations per second of a large matrix product; of a small one where that takes `SLOW_S` and more.

    On a processor without products of bfloat16 torch makes hundreds of times fewer operations in it than in float32.
    """
    import torch

    def rate(size: int, repeats: int) -> float:
        a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        return 2 * size**3 / fastest(lambda: a @ b, repeats)

    small = rate(GEMM_SIZE // 8, 2)
    return small if 2 * GEMM_SIZE**3 / small > SLOW_S else rate(GEMM_SIZE, REPEATS)


def dense_rate() -> float:
    """Operations per second of a large matrix product in the dtype that is fastest here."""
    return max(gemm_rate(dtype) for dtype in GEMM_DTYPES)


def disk_read_rate(folder: Path) -> float | None:
    """Bytes per second from a new file in `folder`, past the page cache; None where the system cannot do that.

    Raises OSError where the file cannot be written.
    """
    if not hasattr(os, "O_DIRECT"):
        return None
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix="disk-rate-", dir=folder)
    try:
        block = os.urandom(DISK_BLOCK)
        with open(handle, "wb") as file:
            for _ in range(DISK_FILE // DISK_BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return _read_directly(name)
    finally:
        os.unlink(name)


def _read_directly(name: str) -> float | None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_DIRECT)
    except OSError:  # tmpfs and some network file systems have no O_DIRECT
        return None
    memory = memoryview(huge_memory(DISK_IN_FLIGHT * DISK_BLOCK))  # small pages cost half of a fast disk's rate
    buffers: SimpleQueue[memoryview] = SimpleQueue()
    for number in range(DISK_IN_FLIGHT):
        buffers.put(memory[number * DISK_BLOCK : (number + 1) * DISK_BLOCK])

    def read_block(offset: int) -> None:
        buffer = buffers.get()
        try:
            os.preadv(file, [buffer], offset)
        finally:
            buffers.put(buffer)

    try:
        with ThreadPoolExecutor(DISK_IN_FLIGHT) as threads:
            return best_rate(DISK_FILE, lambda: list(threads.map(read_block, range(0, DISK_FILE, DISK_BLOCK))))
    finally:
        os.close(file)


def _read(path: Path) -> Machine | None:
    """The figures of an earlier measurement; None where the file is missing or holds something else."""
    try:
        return Machine(**measured.read(path)[SECTION])
    except (KeyError, TypeError):
        return None
