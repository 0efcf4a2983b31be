"""A control group of memory for a test, of version 1 or 2; skipped where none can be made."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOTS = ((Path("/sys/fs/cgroup/memory"), 1), (Path("/sys/fs/cgroup"), 2), (Path("/sys/fs/cgroup/unified"), 2))


FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
CACHE = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}


class Group:
    """A group's folder. Sizes are bytes."""

    def __init__(self, folder: Path, version: int):
        self._folder, self._version = folder, version

    def enter(self, process: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(process))

    def limit(self, num_bytes: int) -> None:
        (self._folder / FILES[self._version][0]).write_text(str(num_bytes))

    def used(self) -> int:
        """Without pages of files, which the kernel drops."""
        stat = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        cache = sum(int(stat[name]) for name in CACHE[self._version])
        return int((self._folder / FILES[self._version][1]).read_text()) - cache


@contextlib.contextmanager
def memory_group() -> Iterator[Group]:
    """A new group below the root of memory's hierarchy, which is removed at the end."""
    for root, version in ROOTS:
        folder = root / f"wavefold-{uuid.uuid4().hex}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / FILES[version][0]).exists():
            break
        folder.rmdir()
    else:
        pytest.skip("no control group of memory can be made here (needs root)")
    try:
        yield Group(folder, version)
    finally:
        os.rmdir(folder)
