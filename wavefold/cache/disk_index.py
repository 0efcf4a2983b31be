"""The index of one space's records on disk: rebuilt from footers at start-up, and kept up with what others write.

    key -> Place(segment, number)        for blocks and for states; key -> parent

A record is in the index once its footer is whole and the file covers it. Its payload is checked when it is read. A
segment whose header or name is another space's is left alone; damaged, newer and foreign ones are counted. A record may
have copies: two processes write one prompt at once, or one that was damaged is written again, beside what it was. The
next one takes the place of one that turns out to be wrong.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from wavefold.atomic import try_lock
from wavefold.cache.ledger import SUFFIX
from wavefold.cache.segment import BLOCK, FOOTER_BYTES, KINDS, PAGE, STATE, Header, Newer, NotOurs, footer_of

REFRESH_S = 1.0
"""How often a process looks at what others have done."""
THREADS = 8


class Found(NamedTuple):
    """What is there of a key."""

    block: bool
    state: bool


class Place(NamedTuple):
    """Where a record lies."""

    segment: Segment
    number: int


@dataclass(eq=False)
class Segment:
    """A file of records. `num_known`: slots whose footers have been read.

    `is_own`: this process made it. `is_final`: nobody writes it any more.
    """

    path: Path
    header: Header
    num_known: int = 0
    is_own: bool = False
    is_final: bool = False
    keys: list[bytes] = field(default_factory=list)

    @property
    def may_grow(self) -> bool:
        """True if another process may add records."""
        return not (self.is_own or self.is_final) and self.num_known < self.header.capacity


class Index:
    """All threads may use it. `counts`: segments that are damaged, newer or foreign, by that word."""

    def __init__(self, folder: Path, space: bytes, lengths: Sequence[int]):
        """`space`: its digest of 32 bytes. `lengths`: payload bytes of a block and of a state."""
        self.folder, self.space, self.lengths = folder, space, tuple(lengths)
        self.prefix = space[:8].hex()
        self.counts = {"damaged": 0, "newer": 0, "foreign": 0}
        self._places: tuple[dict[bytes, Place], dict[bytes, Place]] = ({}, {})
        self._copies: tuple[dict[bytes, list[Place]], dict[bytes, list[Place]]] = ({}, {})
        """Places beside those in `_places`."""
        self._parents: dict[bytes, bytes] = {}
        self._segments: dict[str, Segment] = {}
        self._strange: set[str] = set()
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._looked_at, self._changed_at = 0.0, 0

    def find(self, keys: Sequence[bytes]) -> list[Found]:
        """Returns what is there of each key. Looks at what others have written and removed, once in `REFRESH_S`."""
        if time.monotonic() - self._looked_at >= REFRESH_S:
            self.refresh()
        blocks, states = self._places
        with self._lock:
            return [Found(key in blocks, key in states) for key in keys]

    def place(self, kind: int, key: bytes) -> Place | None:
        with self._lock:
            return self._places[kind].get(key)

    def chain(self, key: bytes) -> list[bytes]:
        """Returns `key` and those before it, up to the head of its chain or the first that is not there."""
        with self._lock:
            keys: list[bytes] = []
            while (parent := self._parents.get(key)) is not None and len(keys) <= len(self._parents):
                keys.append(key)
                key = parent
            return keys

    def segments_of(self, kind: int, keys: Sequence[bytes]) -> list[str]:
        """Returns the names of the segments that hold `keys`, in this order, each once."""
        with self._lock:
            places = (self._places[kind].get(key) for key in keys)
            return list(dict.fromkeys(place.segment.path.name for place in places if place is not None))

    def add(self, segment: Segment, number: int, key: bytes, parent: bytes) -> None:
        """A record is whole in slot `number` of a segment that this process writes."""
        with self._lock:
            other = self._segments.get(segment.path.name)
            if other is not None and other is not segment:  # a look at the folder has found the file first
                for known in list(other.keys):
                    self._forget_in(other, known)
            self._segments[segment.path.name] = segment
            self._add(segment, number, key, parent)
            segment.num_known = max(segment.num_known, number + 1)

    def forget(self, kind: int, key: bytes, place: Place) -> None:
        """The record at `place` is not what was written."""
        with self._lock:
            if self._places[kind].get(key) == place:
                self._next_copy(kind, key)

    def forget_segment(self, name: str) -> None:
        """The file is gone."""
        with self._lock:
            if (segment := self._segments.pop(name, None)) is not None:
                for key in segment.keys:
                    self._forget_in(segment, key)

    def num_records(self) -> tuple[int, int]:
        """Blocks and states that are known."""
        with self._lock:
            return len(self._places[BLOCK]), len(self._places[STATE])

    def refresh(self) -> None:
        """Reads the footers that are new. Another thread that does so already is not waited for."""
        if not self._refreshing.acquire(blocking=False):
            return
        try:
            self._looked_at = time.monotonic()
            self._look_at_folder()
            self._look_at_tails()
        finally:
            self._refreshing.release()

    def _add(self, segment: Segment, number: int, key: bytes, parent: bytes) -> None:
        kind, place = segment.header.kind, Place(segment, number)
        if self._places[kind].setdefault(key, place) != place:
            self._copies[kind].setdefault(key, []).append(place)
        if kind == BLOCK:
            self._parents[key] = parent
        segment.keys.append(key)

    def _next_copy(self, kind: int, key: bytes) -> None:
        """Another copy of a record, if there is one, takes its place."""
        copies = self._copies[kind].pop(key, [])
        if not copies:
            del self._places[kind][key]
            return
        self._places[kind][key] = copies.pop(0)
        if copies:
            self._copies[kind][key] = copies

    def _forget_in(self, segment: Segment, key: bytes) -> None:
        """A record of a segment is gone with it."""
        kind = segment.header.kind
        copies = self._copies[kind].pop(key, [])
        if left := [place for place in copies if place.segment is not segment]:
            self._copies[kind][key] = left
        if (place := self._places[kind].get(key)) is not None and place.segment is segment:
            self._next_copy(kind, key)
            if kind == BLOCK and key not in self._places[kind]:
                self._parents.pop(key, None)

    def _look_at_folder(self) -> None:
        """Finds new segments, and forgets those that are gone."""
        try:
            changed_at = os.stat(self.folder).st_mtime_ns
            if changed_at == self._changed_at:
                return
            names = {name for name in os.listdir(self.folder) if name.endswith(SUFFIX) and name[:1] != "."}
        except OSError:  # the folder is gone: so is all that was in it
            changed_at, names = 0, set()
        with self._lock:
            known = set(self._segments)
        for name in known - names:
            self.forget_segment(name)
        self._strange &= names
        fresh = sorted(name for name in names - known - self._strange if name.startswith(self.prefix))
        for name in fresh:
            self._look_at(name)
        # a folder that changes twice within one tick of the clock has one time for both
        self._changed_at = changed_at if time.time_ns() - changed_at > 100_000_000 else 0

    def _look_at(self, name: str) -> None:
        """Reads the header of a segment that was not known."""
        path, reason = self.folder / name, ""
        try:
            header = read_header(path)
        except Newer:
            reason = "newer"
        except NotOurs:
            reason = "damaged"
        except OSError:  # gone, or not to be read
            return
        else:
            if header.space != self.space or header.length != self.lengths[header.kind]:
                reason = "foreign"
        with self._lock:
            if reason:
                self._strange.add(name)
                self.counts[reason] += 1
            else:
                self._segments.setdefault(name, Segment(path, header))

    def _look_at_tails(self) -> None:
        """Reads the footers behind those that are known, of all segments that others may still write."""
        with self._lock:
            growing = [segment for segment in self._segments.values() if segment.may_grow]
        if len(growing) < THREADS:
            records = [_scan(segment) for segment in growing]
        else:
            with ThreadPoolExecutor(THREADS) as threads:
                records = list(threads.map(_scan, growing))
        with self._lock:
            for segment, (is_final, footers) in zip(growing, records, strict=True):
                if self._segments.get(segment.path.name) is not segment:  # its writer has told of it, or it is gone
                    continue
                segment.is_final = is_final
                for number, key, parent in footers:
                    self._add(segment, number, key, parent)
                    segment.num_known = number + 1


def read_header(path: Path) -> Header:
    """The header of a segment. Raises Newer, NotOurs, and OSError, also for one that is removed meanwhile."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        page = os.pread(file, PAGE, 0)
        if not os.fstat(file).st_nlink:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return Header.unpack(page)
    finally:
        os.close(file)


def _scan(segment: Segment) -> tuple[bool, list[tuple[int, bytes, bytes]]]:
    """(True if nobody writes it any more, the new records)."""
    try:
        file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False, []
    try:
        is_final = try_lock(file)  # its writer holds a lock from before it has its name
        fcntl.flock(file, fcntl.LOCK_UN)
        return is_final, list(new_records(segment, file))
    except OSError:  # no locks here, or an error of the disk
        return False, []
    finally:
        os.close(file)


def new_records(segment: Segment, file: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(slot, key, parent) of the whole footers behind those that are known, of an open segment. Raises OSError.

    A slot without one may be a write under way, or one that was cut off: later slots count.
    """
    header, first = segment.header, segment.num_known
    end = header.num_slots(os.fstat(file).st_size)
    if first < end and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    for number in range(first, end):
        data = os.pread(file, FOOTER_BYTES, header.offset(number + 1) - FOOTER_BYTES)
        if (footer := footer_of(header, number, data)) is not None:
            yield number, footer.key, footer.parent


__all__ = ["BLOCK", "KINDS", "STATE", "Found", "Index", "Place", "Segment", "read_header"]
