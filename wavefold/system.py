"""The machine and this process: processor, memory there is, memory in use; and how a user is told of what is odd."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
from pathlib import Path


class Notice(UserWarning):
    """What a user should know of and need not stop for: something left out, replaced or about to run out.

    Raised with `warnings.warn`; the command line prints each as one line on stderr.
    """


def cpu_name() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def memory_bytes() -> int:
    """Memory of the machine, or of this process's control group where that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def available_bytes() -> int:
    """Memory that a program can still take without swapping: of the machine, or of the control group where less."""
    available = memory_bytes()
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("MemAvailable:"):
            available = min(available, int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, limit - used)
    return available


def rss_bytes() -> int:
    """Memory that this process has resident now, pages of mapped files included; its peak where /proc is missing."""
    return _status("VmRSS") or _largest()


def peak_rss_bytes() -> int:
    """Most memory that this process has had resident, pages of mapped files included.

    Linux's VmHWM counts from the start of this program; ru_maxrss, used elsewhere, may be that of its parent.
    """
    return _status("VmHWM") or _largest()


def _status(field: str) -> int | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _largest() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024
