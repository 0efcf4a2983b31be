"""The byte cap of a folder of segments, for all processes that share it.

The file `ledger` has the cap and the bytes of all segments. It is locked (`flock`) while a segment grows, appears or
goes, for microseconds, or for a look at all segments where one must go.

The cap holds at every moment. (1) A segment grows only here, by `ftruncate`, under the lock, and its content is written
inside that size later: sizes of files never lag behind what is on disk. (2) The count is raised before a file grows and
lowered after one went, so a process that dies in between leaves a count that is too high, never too low; the next look
at all segments corrects it. (3) `room_for` raises nothing above the cap. (4) A segment that others read or write is
locked by them and is not removed; one that is has no bytes left, even if a process opened it before it had the lock.

The cap is that of the process which opened the folder last. Others see it with their next record.
A segment's time of change is its last use, and the least recently used goes first. Who uses a chain gives its head the
latest time and its tail the earliest (`use`), so a chain goes from its tail on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import xxhash

from wavefold.atomic import PRIVATE, try_lock
from wavefold.cache.segment import PAGE

LEDGER = "ledger"
SUFFIX = ".segment"
FRESH = ".fresh-"
"""How names of segments begin that are being made. They have their name only once their header is whole."""
BATCH = 256
"""Where something must go, 1 / BATCH of the cap is made free: a look at all segments costs more than one of them."""

_COUNTS = struct.Struct("<8sIQQ")
_MAGIC, _VERSION = b"WFLEDGER", 1
_LEDGER_BYTES = _COUNTS.size + 8
LEDGER_COST = PAGE
"""Bytes that the ledger itself takes of the cap."""
TURN_S = 10.0
"""How long a process waits for the lock. Only one that was stopped holds it so long."""


class Ledger:
    """One process's access to the ledger of `folder`, which exists. Threads take turns."""

    def __init__(self, folder: Path, cap: int = 0):
        """`cap`: what a ledger that is missing or damaged is made with; 0: nothing grows until one has been set."""
        self.folder, self.cap = folder, cap
        self._path = folder / LEDGER
        self._lock = threading.Lock()
        self._handle: int | None = None
        self.num_removed = 0
        self.on_remove: Callable[[str], None] = lambda name: None
        """Is called with the name of each segment that this process removes."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        """The lock, while the block runs. Raises OSError where it cannot be had: read-only, no locks, no folder."""
        with self._lock:
            handle = self._locked()
            try:
                turn = Turn(self, handle)
                if not turn.cap and self.cap:
                    turn.set_cap(self.cap)
                yield turn
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _locked(self) -> int:
        """The ledger's file, open and locked. One that was removed is made again."""
        while True:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
            _wait_for(self._handle)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._handle), os.stat(self._path)):
                    return self._handle
            os.close(self._handle)
            self._handle = None


class Turn:
    """What may be done under the lock."""

    def __init__(self, ledger: Ledger, handle: int):
        self._ledger, self._handle = ledger, handle
        self.cap, self.num_bytes = _counts(os.pread(handle, _LEDGER_BYTES, 0))

    def set_cap(self, cap: int) -> None:
        """Gives the folder another cap, counts anew, and removes what is over it, and what killed writers left."""
        for name in os.listdir(self._ledger.folder):
            if name.startswith(FRESH):  # made and named under the lock: its maker is dead
                (self._ledger.folder / name).unlink(missing_ok=True)
        self.cap, self.num_bytes = cap, LEDGER_COST + sum(size for _, _, size in self._segments())
        self._write()
        self.room_for(0)

    def room_for(self, num_bytes: int, keep: Callable[[], Collection[str]] = tuple) -> bool:
        """True if `num_bytes` more are under the cap: where they were not, segments have gone, but none of `keep()`."""
        if self.num_bytes + num_bytes <= self.cap:
            return True
        segments = sorted(self._segments())
        self.num_bytes = LEDGER_COST + sum(size for _, _, size in segments)
        if LEDGER_COST + num_bytes <= self.cap:
            kept = keep()
            aim = max(self.cap - self.cap // BATCH, LEDGER_COST + num_bytes)
            for _, name, size in segments:
                if self.num_bytes + num_bytes <= aim:
                    break
                if name not in kept and self._remove(name):
                    self.num_bytes -= size
        self._write()
        return self.num_bytes + num_bytes <= self.cap

    def grow(self, file: int, num_bytes: int) -> None:
        """Makes an open segment longer, or with a negative number shorter."""
        size = os.fstat(file).st_size
        if num_bytes > 0:
            self.count(num_bytes)
        try:
            os.ftruncate(file, size + num_bytes)
        except BaseException:
            self.count(-max(num_bytes, 0))
            raise
        if num_bytes < 0:
            self.count(num_bytes)

    def create(self, name: str, header: bytes, num_bytes: int) -> int:
        """Makes a segment with this header and `num_bytes` behind it, and returns it, open and locked as in use."""
        fresh = self._ledger.folder / f"{FRESH}{name}"
        self.count(len(header) + num_bytes)
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.pwrite(file, header, 0) != len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(file, len(header) + num_bytes)
            fresh.rename(self._ledger.folder / name)
        except BaseException:
            os.close(file)
            fresh.unlink(missing_ok=True)
            self.count(-len(header) - num_bytes)
            raise
        return file

    def remove(self, name: str) -> bool:
        """Removes a segment. False for one that is in use, or is gone."""
        with contextlib.suppress(OSError):
            size = (self._ledger.folder / name).stat().st_size
            if self._remove(name):
                self.count(-size)
                return True
        return False

    def _remove(self, name: str) -> bool:
        path = self._ledger.folder / name
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if try_lock(file):
                    path.unlink()
                    os.ftruncate(file, 0)  # somebody may have opened it a moment ago
                    self._ledger.num_removed += 1
                    self._ledger.on_remove(name)
                    return True
            finally:
                os.close(file)
        return False

    def _segments(self) -> list[tuple[int, str, int]]:
        """(last use in ns, name, bytes) of all segments."""
        found = []
        with os.scandir(self._ledger.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, entry.name, status.st_size))
        return found

    def count(self, num_bytes: int) -> None:
        """Adds to the bytes of all segments."""
        self.num_bytes += num_bytes
        self._write()

    def _write(self) -> None:
        data = _COUNTS.pack(_MAGIC, _VERSION, self.cap, max(self.num_bytes, 0))
        os.pwrite(self._handle, data + xxhash.xxh3_64_digest(data), 0)


def counts_of(path: Path) -> tuple[int, int]:
    """(cap, bytes) that a ledger says; zeros for one that is missing or damaged."""
    try:
        return _counts(path.read_bytes()[:_LEDGER_BYTES])
    except OSError:
        return 0, 0


def _counts(data: bytes) -> tuple[int, int]:
    if len(data) == _LEDGER_BYTES and xxhash.xxh3_64_digest(data[:-8]) == data[-8:]:
        magic, version, cap, num_bytes = _COUNTS.unpack_from(data)
        if (magic, version) == (_MAGIC, _VERSION):
            return cap, num_bytes
    return 0, 0


def _wait_for(handle: int) -> None:
    """Locks an open file. Raises OSError where that cannot be had, or not within `TURN_S`."""
    ends, pause = time.monotonic() + TURN_S, 0.0001
    while not try_lock(handle):
        if time.monotonic() > ends:
            raise OSError(errno.EAGAIN, f"another process has held the lock of the cache for {TURN_S:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


def use(folder: Path, names: Sequence[str]) -> None:
    """Says that a chain is used now. `names`: its segments from tail to head; the head gets the latest time."""
    now = time.time_ns()
    for number, name in enumerate(names):
        with contextlib.suppress(OSError):
            os.utime(folder / name, ns=(now, now + 1000 * number), follow_symlinks=False)
