"""A control group of memory of one's own, of version 1 or 2, for a process that is measured or tested."""

from __future__ import annotations

import uuid
from pathlib import Path

ROOTS = ((Path("/sys/fs/cgroup/memory"), 1), (Path("/sys/fs/cgroup"), 2), (Path("/sys/fs/cgroup/unified"), 2))
LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
CACHE = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}


class MemoryGroup:
    """A group's folder. Sizes are bytes."""

    def __init__(self, folder: Path, version: int):
        self._folder, self._version = folder, version

    @classmethod
    def new(cls) -> MemoryGroup | None:
        """Makes a group below the root of a hierarchy; None where this process may not."""
        for root, version in ROOTS:
            folder = root / f"wavefold-{uuid.uuid4().hex}"
            try:
                folder.mkdir()
            except OSError:
                continue
            if (folder / LIMIT[version]).exists():
                return cls(folder, version)
            folder.rmdir()
        return None

    def enter(self, process: int) -> None:
        """Moves a process into the group."""
        (self._folder / "cgroup.procs").write_text(str(process))

    def limit(self, num_bytes: int) -> None:
        """Raises OSError where the group uses more already and nothing can be dropped (version 1)."""
        (self._folder / LIMIT[self._version]).write_text(str(num_bytes))

    def used(self) -> int:
        """Returns what is in use without pages of files, which the kernel drops."""
        stat = self._counts("memory.stat")
        return self._number(USED) - sum(stat[name] for name in CACHE[self._version])

    def peak(self) -> int:
        """Returns the most that was in use, with pages of files."""
        return self._number(PEAK)

    def num_failures(self) -> int:
        """Returns how often the limit was met."""
        if self._version == 1:
            return int((self._folder / "memory.failcnt").read_text())
        return self._counts("memory.events")["max"]

    def remove(self) -> None:
        """Removes the group, whose processes have ended."""
        self._folder.rmdir()

    def _number(self, names: dict[int, str]) -> int:
        return int((self._folder / names[self._version]).read_text())

    def _counts(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self._folder / name).read_text().splitlines())
        return {key: int(value) for key, value in lines}
