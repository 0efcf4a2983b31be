"""Reads of records: several in flight, past the page cache, straight into the caller's memory, each checked whole.

    slot on disk     whole pages of the payload | rest of it, zeros, footer
    one request      caller's memory            | a page or two of ours        then the rest is copied

Memory that does not begin at a page takes the way over a slot of our own: O_DIRECT wants pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from wavefold.cache.disk_index import Index, Place
from wavefold.cache.disk_write import Buffers
from wavefold.cache.segment import PAGE, is_right
from wavefold.system.reading import PIECE, DirectFile, ReadThreads

PIECE_BYTES = PIECE // PAGE * PAGE


class Wanted:
    """A record that is read into `memory`. `is_right` once all of its reads have ended."""

    def __init__(self, kind: int, key: bytes, memory: memoryview, place: Place | None):
        self.kind, self.key, self.memory, self.place = kind, key, memory.cast("B"), place
        self.is_right = False
        self.problem = "missing" if place is None else ""
        """"missing", "gone" with its segment, "corrupt", or an error's text."""
        self._lock = threading.Lock()
        self._num_left = 0
        self._parts: list[memoryview] = []
        self._num_bytes = 0

    def reads(self, open_segment: Callable[[Place], DirectFile], buffers: Buffers) -> list[Callable[[], None]]:
        """Returns the reads, of at most `PIECE` bytes each, which may run side by side."""
        place = self.place
        assert place is not None
        header = place.segment.header
        direct_bytes = header.whole_bytes if _is_aligned(self.memory) else 0
        rest = buffers.take(header.slot_bytes - direct_bytes)
        self._parts = [self.memory[:direct_bytes], memoryview(rest)]
        cuts = list(range(0, header.slot_bytes, PIECE_BYTES))
        self._num_left = len(cuts)

        def read(begin: int) -> None:
            end = min(begin + PIECE_BYTES, header.slot_bytes)
            views = _slice(self._parts, begin, end)
            count, problem = 0, ""
            try:
                count = open_segment(place).read(views, header.offset(place.number) + begin, end - begin)
            except FileNotFoundError:
                problem = "gone"
            except OSError as error:
                problem = error.strerror or str(error)
            with self._lock:
                self.problem = self.problem or problem
                self._num_bytes += count
                self._num_left -= 1
                is_last = self._num_left == 0
            if is_last:
                self._check(direct_bytes)
                self._parts = []
                buffers.give(rest)

        return [functools.partial(read, begin) for begin in cuts]

    def _check(self, direct_bytes: int) -> None:
        """Compares the checksum, and copies what did not come straight."""
        assert self.place is not None
        if self.problem:
            return
        header, number = self.place.segment.header, self.place.number
        parts = [part for part in self._parts if len(part)]
        if self._num_bytes != header.slot_bytes or not is_right(header, number, self.key, parts):
            self.problem = "corrupt"
            return
        if header.length > direct_bytes:
            target = np.frombuffer(self.memory, np.uint8)[direct_bytes : header.length]
            np.copyto(target, np.frombuffer(self._parts[1], np.uint8)[: len(target)])
        self.is_right = True


class RecordReader:
    """Reads records. `counts`: records, bytes and problems by name."""

    def __init__(self, buffers: Buffers):
        self.counts: Counter[str] = Counter()
        self._buffers = buffers
        self._threads: ReadThreads | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self, index: Index, wanted: Sequence[Wanted]) -> Reading:
        """Reads all that have a place. The memory is the reader's until `Reading.wait` returns."""
        files = _Files()
        reads = [read for one in wanted if one.place is not None for read in one.reads(files.open, self._buffers)]
        with self._lock:
            if self._threads is None:
                self._threads = ReadThreads("prefix-reader", "the prefix cache")
                if self._is_closed:
                    self._threads.close()
        try:
            future = self._threads.submit(reads)
        except ValueError as error:  # closed
            future = Future()
            future.set_exception(error)
        return Reading(self, index, wanted, future, files)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._threads is not None:
                self._threads.close()

    def ended(self, index: Index, wanted: Sequence[Wanted]) -> None:
        """Counts what came; what was wrong is no longer in the index."""
        with self._lock:
            for one in wanted:
                if one.place is None:
                    continue
                if one.is_right:
                    self.counts["records"] += 1
                    self.counts["bytes"] += one.place.segment.header.slot_bytes
                    continue
                self.counts[one.problem if one.problem in ("gone", "corrupt") else "errors"] += 1
                if one.problem == "gone":
                    index.forget_segment(one.place.segment.path.name)
                else:
                    index.forget(one.kind, one.key, one.place)


class Reading:
    """Reads under way."""

    def __init__(
        self, reader: RecordReader, index: Index, wanted: Sequence[Wanted], future: Future[None], files: _Files
    ):
        self._reader, self._index, self._future, self._files = reader, index, future, files
        self.wanted = wanted

    def wait(self) -> None:
        """Returns once all reads have ended, well or not."""
        try:
            with contextlib.suppress(ValueError):  # the cache was closed: what was not read is not right
                self._future.result()
        finally:
            self._files.close()
        self._reader.ended(self._index, self.wanted)


class _Files:
    """The segments of one reading, each opened once. They are locked as in use, so that none is removed meanwhile."""

    def __init__(self) -> None:
        self._files: dict[str, DirectFile] = {}
        self._lock = threading.Lock()

    def open(self, place: Place) -> DirectFile:
        """Raises OSError."""
        path = place.segment.path
        with self._lock:
            if (file := self._files.get(path.name)) is None:
                file = self._files[path.name] = DirectFile(path)
                with contextlib.suppress(OSError):  # somebody removes it now, or there are no locks: it is read anyway
                    fcntl.flock(file.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return file

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _is_aligned(memory: memoryview) -> bool:
    if not len(memory):
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
