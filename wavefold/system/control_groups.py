"""Memory limits of this process's control groups, versions 1 and 2, at every level that can be seen.

    /proc/self/cgroup       the group's path in its hierarchy     4:memory:/a/b        0::/a/b
    /proc/self/mountinfo    where a hierarchy, or a part of it, is mounted
    the group's folder      a limit and the bytes in use; so has each folder above it, up to the mount point

Sources: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Limit:
    """One bound on the memory of this process. `total` and `free` are bytes; `name` is for error messages.

    `counts_maps`: True if mapped files count towards it, as in limits of address space. `free` may be negative.
    """

    name: str
    total: int
    free: int
    counts_maps: bool = False


@dataclass(frozen=True)
class _Mount:
    """A hierarchy's mount: `top` is the group at `folder`."""

    version: int
    top: PurePosixPath
    folder: Path


LIMIT = "memory.limit_in_bytes"
"""A group's limit in version 1."""


def group_limits(root: Path = Path("/")) -> list[Limit]:
    """Returns the limits of this process's groups, innermost first. `root` is the folder that stands for "/".

    The list is empty where the system has no control groups, or none of them limits memory.
    """
    paths, all_mounts = _paths(root), list(_mounts(root))
    limits: list[Limit] = []
    for version, path in paths.items():
        mounts = [mount for mount in all_mounts if mount.version == version]
        # A container may see the path on the host and its own group at the mount point: then only that one is there.
        fitting = [mount for mount in mounts if path.is_relative_to(mount.top)] or mounts
        for mount in fitting:
            below = path.relative_to(mount.top) if path.is_relative_to(mount.top) else PurePosixPath(".")
            for level in (below, *below.parents):
                limits += _LIMITS[version](mount.folder / level, mount.top / level)
    return limits


def _paths(root: Path) -> dict[int, PurePosixPath]:
    """Returns this process's group by version: of the memory controller in version 1, and of version 2."""
    paths: dict[int, PurePosixPath] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = PurePosixPath(path)
        elif "memory" in controllers.split(","):
            paths[1] = PurePosixPath(path)
    return paths


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = (*after.split(" ", 2), "", "")[:3]  # the source between them may be empty
        version = 2 if kind == "cgroup2" else 1
        if version == 2 or (kind == "cgroup" and "memory" in options.split(",")):
            top, point = (_unescaped(field) for field in before.split()[3:5])
            yield _Mount(version, PurePosixPath(top), root / point.lstrip("/"))


def _unescaped(field: str) -> str:
    """A field of mountinfo: a blank, for one, is \\040 there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _first(folder: Path, group: PurePosixPath) -> Iterator[Limit]:
    """Version 1. A group without a limit has 2^63 less a page: of such groups only the top one has more to say."""
    total, is_top = _number(folder / LIMIT), not (folder.parent / LIMIT).exists()
    if total is None or (total >= 1 << 62 and not is_top):
        return
    used, stat = _number(folder / "memory.usage_in_bytes"), _stat(folder)
    cache = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    free = total - max(0, (used or 0) - cache)
    yield Limit(f"control group {group} ({LIMIT})", total, free)
    above = stat.get("hierarchical_memory_limit", total)
    if above < total and is_top:  # above the mount: shows only here
        yield Limit(f"a control group above {group} (hierarchical_memory_limit)", above, above - (total - free))


def _second(folder: Path, group: PurePosixPath) -> Iterator[Limit]:
    """Version 2. Above memory.max the kernel kills; above memory.high it slows a group down until it hardly runs."""
    totals = {name: _number(folder / name) for name in ("memory.max", "memory.high")}
    if all(total is None for total in totals.values()):
        return
    stat = _stat(folder)
    cache = sum(stat.get(key, 0) for key in ("inactive_file", "active_file", "slab_reclaimable"))
    used = max(0, (_number(folder / "memory.current") or 0) - cache)
    for name, total in totals.items():
        if total is not None:
            yield Limit(f"control group {group} ({name})", total, total - used)


_LIMITS = {1: _first, 2: _second}


def _stat(folder: Path) -> dict[str, int]:
    """Reads memory.stat. Pages of files on disk can be dropped: their bytes are not in use, as in MemAvailable."""
    return {key: int(value) for key, value in (line.split() for line in _lines(folder / "memory.stat"))}


def _number(path: Path) -> int | None:
    """Returns the number in a file, or None without a file or a number: "max" is no limit."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").splitlines()  # quicker than text: each request asks
    except OSError:  # the file is absent, or may not be read
        return []
