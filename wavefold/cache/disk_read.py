"""Reads of records: several in flight, past the page cache, straight into the caller's memory, each checked whole.

    slots on disk    whole pages of a payload | rest of it, zeros, footer | the next slot ...
    one request      caller's memory          | a page or two of ours     | caller's memory ...
                     caller's memory, if it has room for a whole slot     | caller's memory ...

A request has slots that follow one another, as a chain's blocks do, up to `RUN_BYTES`; slots larger than `PIECE` are
read in pieces side by side. Memory that does not begin at a page takes the way over ours: O_DIRECT wants pages.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import functools
import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from wavefold.cache.disk_index import Index, Place
from wavefold.cache.disk_write import Buffers
from wavefold.cache.segment import PAGE, is_right
from wavefold.system.reading import IN_FLIGHT, PIECE, DirectFile, ReadThreads

THREADS = IN_FLIGHT + IN_FLIGHT // 2
"""Some compare checksums while the others read."""
RUN_BYTES = 4 << 20
"""Bytes of a request for several slots at most. Half as many cost 5 % of the rate."""
LAST_BYTES = 24 << 20
"""The last requests have a quarter of that: what has come with them is compared while nothing is read."""


class Wanted:
    """A record that is read into `memory`, which may have more room. `is_right` once all reads have ended.

    `problem`: "missing", "gone" with its segment, "corrupt", or an error's text; "" where there is none.
    """

    def __init__(self, kind: int, key: bytes, memory: memoryview, place: Place | None):
        self.kind, self.key, self.memory, self.place = kind, key, memory.cast("B"), place
        self.is_right = False
        self.problem = "missing" if place is None else ""
        self.direct_bytes = 0
        """Bytes of the slot that are read straight into `memory`."""
        if place is not None and _is_aligned(self.memory):
            header = place.segment.header
            has_room = len(self.memory) >= header.slot_bytes
            self.direct_bytes = header.slot_bytes if has_room else header.whole_bytes

    def parts(self, rest: memoryview) -> list[memoryview]:
        """The memory for the slot: the caller's, then ours."""
        return [part for part in (self.memory[: self.direct_bytes], rest) if len(part)]

    def check(self, parts: Sequence[memoryview], num_bytes: int) -> None:
        """Compares the checksums of a slot of which `num_bytes` came, and copies what did not come straight."""
        assert self.place is not None
        header = self.place.segment.header
        if num_bytes < header.slot_bytes or not is_right(header, self.place.number, self.key, parts):
            self.problem = "corrupt"
            return
        left = header.length - self.direct_bytes
        if left > PAGE:
            np.copyto(
                np.frombuffer(self.memory, np.uint8)[self.direct_bytes : header.length],
                np.frombuffer(parts[-1], np.uint8)[:left],
            )  # without the GIL
        elif left > 0:
            self.memory[self.direct_bytes : header.length] = parts[-1][:left]
        self.is_right = True


class RecordReader:
    """Reads records. `counts`: records, bytes and problems by name."""

    def __init__(self, buffers: Buffers):
        self.counts: Counter[str] = Counter()
        self._buffers = buffers
        self._threads = ReadThreads("prefix-reader", "the prefix cache", THREADS)
        self._lock = threading.Lock()
        self._running: set[Future[None]] = set()

    def start(self, index: Index, wanted: Sequence[Wanted]) -> Reading:
        """Reads all that have a place. The memory is the reader's until `Reading.wait` returns."""
        files = _Files()
        reads: list[Callable[[], None]] = []
        for run in runs_of(wanted):
            reads += _reads(run, files, self._buffers)
        try:
            future = self._threads.submit(reads)
        except ValueError as error:  # closed
            future = Future()
            future.set_exception(error)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return Reading(self, index, wanted, future, files)

    def settle(self) -> None:
        """Returns once nothing is read any more, though nobody may wait for it after an interruption."""
        for future in list(self._running):
            ended(future)

    def close(self) -> None:
        self._threads.close()

    def ended(self, index: Index, wanted: Sequence[Wanted]) -> None:
        """Counts what came; what was wrong is no longer in the index."""
        right = [one.place.segment.header.slot_bytes for one in wanted if one.is_right and one.place is not None]
        with self._lock:
            self.counts["records"] += len(right)
            self.counts["bytes"] += sum(right)
            for one in wanted:
                if one.place is None or one.is_right:
                    continue
                if one.problem == "gone":
                    self.counts["gone"] += 1
                    index.forget_segment(one.place.segment.path.name)
                elif one.problem:
                    self.counts["corrupt" if one.problem == "corrupt" else "errors"] += 1
                    index.forget(one.kind, one.key, one.place)


class Reading:
    """Reads under way."""

    def __init__(
        self, reader: RecordReader, index: Index, wanted: Sequence[Wanted], future: Future[None], files: _Files
    ):
        self._reader, self._index, self._future, self._files = reader, index, future, files
        self.wanted = wanted

    def wait(self) -> None:
        """Returns once all reads have ended, well or not: memory is theirs until then. Raises an interruption then."""
        try:
            ended(self._future)
        finally:
            self._files.close()
        with contextlib.suppress(ValueError):  # the cache was closed: what was not read is not right
            self._future.result()
        self._reader.ended(self._index, self.wanted)

    def again(self) -> Reading | None:
        """Begins to read other copies of the records that are not right; None where the index has none.

        `wait` comes before it.
        """
        if all(one.is_right for one in self.wanted):
            return None
        places = [self._index.place(one.kind, one.key) for one in self.wanted]
        copies = [
            Wanted(one.kind, one.key, one.memory, place)
            for one, place in zip(self.wanted, places, strict=True)
            if not one.is_right and place not in (None, one.place)
        ]
        return self._reader.start(self._index, copies) if copies else None


def ended(future: Future[None]) -> None:
    """Returns when a future is done. What interrupts that is raised afterwards."""
    interruption: BaseException | None = None
    while not future.done():
        try:
            concurrent.futures.wait([future])
        except BaseException as error:
            interruption = error
    if interruption is not None:
        raise interruption


class _Files:
    """The segments of one reading, each opened once. They are locked as in use, so that none is removed meanwhile."""

    def __init__(self) -> None:
        self._files: dict[str, DirectFile] = {}
        self._lock = threading.Lock()

    def open(self, place: Place) -> DirectFile:
        """Raises OSError."""
        path = place.segment.path
        with self._lock:
            file = self._files.get(path.name)
        if file is None:  # opened without the lock: reads of other segments begin meanwhile
            opened = DirectFile(path)
            with contextlib.suppress(OSError):  # somebody removes it now, or there are no locks: it is read anyway
                fcntl.flock(opened.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with self._lock:
                file = self._files.setdefault(path.name, opened)
            if file is not opened:
                opened.close()
        return file

    def is_gone(self, place: Place) -> bool:
        """True if an open segment has no name any more."""
        return not os.fstat(self.open(place).descriptor).st_nlink

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def runs_of(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """The records that have a place, those that follow one another together; at the end fewer, as nobody reads then."""
    runs: list[list[Wanted]] = []
    num_left = sum(one.place.segment.header.slot_bytes for one in wanted if one.place is not None)
    for one in wanted:
        if one.place is None:
            continue
        slot_bytes = one.place.segment.header.slot_bytes
        last = runs[-1][-1].place if runs else None
        most = RUN_BYTES if num_left > LAST_BYTES else RUN_BYTES // 4
        follows = last is not None and last.segment is one.place.segment and last.number + 1 == one.place.number
        if follows and (len(runs[-1]) + 1) * slot_bytes <= most:
            runs[-1].append(one)
        else:
            runs.append([one])
        num_left -= slot_bytes
    return runs


def _reads(run: list[Wanted], files: _Files, buffers: Buffers) -> list[Callable[[], None]]:
    """The reads of a run: one, or several of a slot that is larger than a request."""
    assert run[0].place is not None
    slot_bytes = run[0].place.segment.header.slot_bytes
    if slot_bytes <= PIECE:
        return [functools.partial(_read_run, run, files, buffers)]
    pieces = _Pieces(run[0], -(-slot_bytes // PIECE))
    return [functools.partial(pieces.read, begin, files, buffers) for begin in range(0, slot_bytes, PIECE)]


def _read_run(run: Sequence[Wanted], files: _Files, buffers: Buffers) -> None:
    """One request. After an error of the disk each record is read alone: one bad sector spoils one record."""
    place = run[0].place
    assert place is not None
    slot_bytes = place.segment.header.slot_bytes
    sizes = [slot_bytes - one.direct_bytes for one in run]
    memory = buffers.take(sum(sizes))
    parts, at = [], 0
    for one, size in zip(run, sizes, strict=True):
        parts.append(one.parts(memoryview(memory)[at : at + size]))
        at += size
    views = [view for slot in parts for view in slot]
    try:
        count = files.open(place).read(views, place.segment.header.offset(place.number), slot_bytes * len(run))
    except OSError as error:
        if len(run) > 1 and not isinstance(error, FileNotFoundError):
            for one in run:
                _read_run([one], files, buffers)
            return
        for one in run:
            one.problem = _name(error)
        return
    is_gone = count < slot_bytes * len(run) and files.is_gone(place)
    for number, (one, slot) in enumerate(zip(run, parts, strict=True)):
        one.check(slot, count - number * slot_bytes)
        if is_gone and one.problem:
            one.problem = "gone"
    buffers.give(memory)


class _Pieces:
    """A slot that is read in several requests. The last one compares its checksums."""

    def __init__(self, record: Wanted, num_pieces: int):
        self._record, self._num_left = record, num_pieces
        self._num_bytes = 0
        self._memory: mmap.mmap | None = None
        self._lock = threading.Lock()

    def read(self, begin: int, files: _Files, buffers: Buffers) -> None:
        record, place = self._record, self._record.place
        assert place is not None
        header = place.segment.header
        with self._lock:
            if self._memory is None:
                self._memory = buffers.take(header.slot_bytes - record.direct_bytes)
            memory = self._memory
        parts = record.parts(memoryview(memory)[: header.slot_bytes - record.direct_bytes])
        count, size, problem = 0, min(PIECE, header.slot_bytes - begin), ""
        try:
            count = files.open(place).read(
                _slice(parts, begin, begin + size), header.offset(place.number) + begin, size
            )
        except OSError as error:
            problem = _name(error)
        with self._lock:
            record.problem = record.problem or problem
            self._num_bytes += count
            self._num_left -= 1
            is_last = self._num_left == 0
        if is_last and not record.problem:
            record.check(parts, self._num_bytes)
        if is_last:
            buffers.give(memory)


def _name(error: OSError) -> str:
    return "gone" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def _is_aligned(memory: memoryview) -> bool:
    if len(memory) < PAGE:
        return False
    address: int = np.frombuffer(memory, np.uint8, 1).__array_interface__["data"][0]
    return address % PAGE == 0


def _slice(parts: Sequence[memoryview], begin: int, end: int) -> list[memoryview]:
    """Bytes [begin, end) of `parts`, one after another."""
    found, at = [], 0
    for part in parts:
        first, last = max(begin - at, 0), min(end - at, len(part))
        if first < last:
            found.append(part[first:last])
        at += len(part)
    return found
