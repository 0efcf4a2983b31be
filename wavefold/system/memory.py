"""Memory that this process may take: the least that the machine, control groups and process limits allow.

check_memory   the one check before anything large is allocated: in the cache, a load, a run, training
"""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from wavefold.system.control_groups import Limit, group_limits

RLIMITS = (("RLIMIT_AS (ulimit -v)", "RLIMIT_AS", "VmSize"), ("RLIMIT_DATA (ulimit -d)", "RLIMIT_DATA", "VmData"))
"""Name, constant, and the field of /proc/self/status with the bytes in use."""


ADDRESS_SLACK = {"RLIMIT_AS": 1536 << 20, "RLIMIT_DATA": 128 << 20}
"""Address space that allocators of threads reserve and never fill.

Without this slack a process under `ulimit -v` dies of a failed reservation although its memory would fit.
"""
ADDRESS_LEAST = 1 << 30
"""Address space that the libraries of a command take before it does anything."""


def memory_bytes() -> int:
    """Returns the most memory that this process may have: the least total of all limits."""
    return min(limit.total for limit in limits())


def available_bytes() -> int:
    """Returns the memory that this process can still take without swapping, at least 0."""
    return max(0, tightest().free)


def check_memory(num_bytes: int, subject: str, advice: str, mapped_bytes: int = 0) -> None:
    """Raises ValueError where `num_bytes` more memory, or the address space for `mapped_bytes` of files, is not free.

    `subject` and `advice` complete the message: "{subject} takes 2.00 GB, and 1.00 GB of memory are free: the machine
    allows 8.00 GB; expected {advice}".
    """
    limit = tightest(mapped_bytes)
    needed = num_bytes + mapped_bytes * limit.counts_maps
    if needed > limit.free:
        raise ValueError(
            f"{subject} takes {needed / 1e9:,.2f} GB, and {max(0, limit.free) / 1e9:,.2f} GB of memory are free: "
            f"{limit.name} allows {limit.total / 1e9:,.2f} GB; expected {advice}"
        )


def check_address_space() -> None:
    """Raises ValueError where a limit leaves too little address space for the libraries that are imported next."""
    total, _ = resource.getrlimit(resource.RLIMIT_AS)
    if total != resource.RLIM_INFINITY and total < ADDRESS_LEAST:
        raise ValueError(
            f"RLIMIT_AS (ulimit -v) allows {total / 1e9:,.2f} GB; expected {ADDRESS_LEAST / 1e9:,.2f} GB at least, "
            "which torch takes alone"
        )


def tightest(mapped_bytes: int = 0) -> Limit:
    """Returns the limit that leaves least memory once `mapped_bytes` of files are mapped."""
    return min(limits(), key=lambda limit: limit.free - mapped_bytes * limit.counts_maps)


def limits(root: Path = Path("/")) -> list[Limit]:
    """Returns all limits of this process, the machine's first. `root` is the folder that stands for "/"."""
    return [*resident_limits(root), *_process_limits(root)]


def resident_limits(root: Path = Path("/")) -> list[Limit]:
    """Returns those limits that count memory in use, not addresses: the machine's and control groups'."""
    return [_machine(root), *group_limits(root)]


def _machine(root: Path) -> Limit:
    sizes = _fields(root / "proc/meminfo")
    total = sizes.get("MemTotal", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return Limit("the machine", total, min(total, sizes.get("MemAvailable", total)))


def _process_limits(root: Path) -> list[Limit]:
    """Returns limits of address space and data, if any. Linux counts private writable maps of files as data."""
    used = _fields(root / "proc/self/status")
    found = []
    for name, constant, field in RLIMITS:
        total, _ = resource.getrlimit(getattr(resource, constant))
        if total != resource.RLIM_INFINITY:
            free = total - used.get(field, rss_bytes()) - ADDRESS_SLACK[constant]
            found.append(Limit(name, total, free, counts_maps=True))
    return found


def rss_bytes() -> int:
    """Returns the resident bytes of this process, with pages of mapped files. Without /proc it returns their peak."""
    return _fields(Path("/proc/self/status")).get("VmRSS", 0) or _largest()


def peak_rss_bytes() -> int:
    """Returns the peak of resident bytes of this process, with pages of mapped files.

    Linux's VmHWM counts from the start of this program. ru_maxrss, used elsewhere, may be that of its parent.
    """
    return _fields(Path("/proc/self/status")).get("VmHWM", 0) or _largest()


def _fields(path: Path) -> dict[str, int]:
    """Returns the sizes in a file of /proc, which are kB, as bytes by name; empty without the file."""
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    sizes = (line.replace(":", " ").split() for line in lines if line.endswith(" kB"))
    return {words[0]: int(words[1]) * 1024 for words in sizes}


def _largest() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024
