"""glibc's allocator: what a process does with memory that it has freed. Sources: mallopt(3), malloc_trim(3)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK, KEPT_BYTES = 1 << 30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next allocations, up to its peak. False where there is no glibc.

    For a process that allocates the same large blocks again and again, as a training step does. glibc gives large
    freed blocks back to the system, and each page of the next one is a fault and 4 KiB of zeros: 30,000 of them in a
    step of the nano preset, a tenth of its time.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def trim_of_libc() -> Callable[[], object] | None:
    """Returns what gives free memory back to the system; None where the C library has no such function."""
    trim = _function("malloc_trim")
    return None if trim is None else lambda: trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """Returns a function of the C library, or None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:
        return None
