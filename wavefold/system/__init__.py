"""The machine and this process: processor, memory and its limits; and notices to a user."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from wavefold.system.control_groups import Limit
from wavefold.system.huge_pages import check_huge_pages, huge_bytes, huge_memory
from wavefold.system.memory import (
    available_bytes,
    check_address_space,
    check_memory,
    memory_bytes,
    peak_rss_bytes,
    rss_bytes,
)

__all__ = [
    "Limit",
    "Notice",
    "available_bytes",
    "check_address_space",
    "check_huge_pages",
    "check_memory",
    "cpu_name",
    "huge_bytes",
    "huge_memory",
    "memory_bytes",
    "peak_rss_bytes",
    "rss_bytes",
]


class Notice(UserWarning):
    """A notice to a user that stops nothing: something is left out, replaced or about to run out.

    Raised with `warnings.warn`; the command line prints each as one line on stderr.
    """


def cpu_name() -> str:
    """Returns the processor's name and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"
