"""Reads of parts of files into memory, several in flight, without filling the page cache.

    Part(file, begin, end, at) --threads--> bytes [begin, end) of a file at memory[at:]

Linux: O_DIRECT where the file system has it, for which offsets and lengths are multiples of `ALIGNMENT`. Elsewhere
plain reads: the pages are then dropped from the cache (Linux), or not kept (macOS, F_NOCACHE).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from wavefold.experts.mapped import Stamp, stamp_of

ALIGNMENT = 4096
IN_FLIGHT = 8
"""Reads at a time. An SSD needs several to reach its rate."""
PIECE = 4 << 20
"""Bytes of a read at most: the pieces of an expert that somebody waits for are read side by side."""


class Part(NamedTuple):
    """Bytes [begin, end) of the file with number `file`, to be read to `at` of the memory."""

    file: int
    begin: int
    end: int
    at: int


class ReadCounts:
    """What a reader has done so far: reads, and bytes of them."""

    def __init__(self) -> None:
        self.num_reads = self.num_bytes = 0


class Reader:
    """Reads from files that must stay as `stamps` say. Each read is of one Part or more, as one task."""

    def __init__(self, paths: Sequence[Path], stamps: Sequence[Stamp], in_flight: int = IN_FLIGHT, direct: bool = True):
        """`direct`: False reads through the page cache, and drops what was read."""
        self._paths, self._stamps, self._direct = list(paths), list(stamps), direct
        self._files: dict[int, _File] = {}
        self._urgent: deque[tuple[_Task, Part]] = deque()
        self._ahead: deque[tuple[_Task, Part]] = deque()
        self._lock = threading.Condition()
        self._closed = False
        self.counts = ReadCounts()
        self._threads = [
            threading.Thread(target=self._work, name=f"expert-reader-{number}", daemon=True)
            for number in range(in_flight)
        ]
        for thread in self._threads:
            thread.start()

    def read(self, parts: Sequence[Part], memory: memoryview, urgent: bool = True) -> Future[None]:
        """Reads all parts into `memory`. Reads that are not urgent come after all that are.

        The future raises ValueError, which names file and offset, for a file that is gone, was replaced or is shorter,
        and for an error of the disk.
        """
        task = _Task(self._read, list(_pieces(parts)), memory)
        if not task.pieces:
            task.future.set_result(None)
        with self._lock:
            if self._closed:
                raise ValueError("the reader of routed experts is closed; load the model again")
            queue = self._urgent if urgent else self._ahead
            queue.extend((task, piece) for piece in task.pieces)
            self._lock.notify(len(task.pieces))
        return task.future

    def close(self) -> None:
        """Ends the threads once their reads have ended, and closes the files. Reads that wait fail."""
        with self._lock:
            self._closed = True
            waiting = [*self._urgent, *self._ahead]
            for queue in (self._urgent, self._ahead):
                queue.clear()
            self._lock.notify_all()
        for task, _ in waiting:
            task.ended(ValueError("the reader of routed experts was closed amid a read; load the model again"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for file in self._files.values():
            os.close(file.descriptor)
        self._files.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                while not (self._urgent or self._ahead or self._closed):
                    self._lock.wait()
                if self._closed:
                    return
                task, piece = (self._urgent or self._ahead).popleft()
            task.run(piece)

    def _open(self, number: int) -> _File:
        with self._lock:
            if (file := self._files.get(number)) is None:
                file = self._files[number] = _File(self._paths[number], self._direct)
            return file

    def _read(self, part: Part, memory: memoryview) -> None:
        path, file = self._paths[part.file], self._open(part.file)
        stamp = self._stamps[part.file]
        try:
            found = stamp_of(file.descriptor), stamp_of(path)
        except OSError as error:
            raise ValueError(f"{path}: is gone since the model was loaded ({error.strerror}); load it again") from None
        if found != (stamp, stamp):
            raise ValueError(f"{path}: was replaced since the model was loaded; load it again")
        done, wanted = part.begin, min(part.end, stamp[1])
        while done < wanted:
            was_direct = file.direct
            with memory[part.at + done - part.begin : part.at + part.end - part.begin] as rest:
                try:
                    count = os.preadv(file.descriptor, [rest], done)
                except OSError as error:
                    if error.errno == errno.EINVAL and was_direct:  # a file system that takes the flag alone
                        file.direct_off()
                        continue
                    raise ValueError(f"{path}: byte {done:,} could not be read ({error.strerror})") from None
            if not count:
                raise ValueError(f"{path}: ends at byte {done:,}, expected {wanted:,} bytes; load it again")
            if file.direct and done + count < wanted and count % ALIGNMENT:
                count -= count % ALIGNMENT
                if not count:
                    file.direct_off()
            done += count
        with self._lock:
            self.counts.num_reads += 1
            self.counts.num_bytes += part.end - part.begin
        if not file.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.descriptor, part.begin, part.end - part.begin, os.POSIX_FADV_DONTNEED)


def _pieces(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        for begin in range(part.begin, part.end, PIECE):
            yield Part(part.file, begin, min(begin + PIECE, part.end), part.at + begin - part.begin)


class _Task:
    """The pieces of one read, whose future ends with the last of them, or with the error of the first that fails."""

    def __init__(self, read: Callable[[Part, memoryview], None], pieces: Sequence[Part], memory: memoryview):
        self.future: Future[None] = Future()
        self.pieces, self._memory, self._read = pieces, memory, read
        self._lock = threading.Lock()
        self._num_left = len(pieces)
        self._error: BaseException | None = None

    def run(self, piece: Part) -> None:
        """Reads a piece. The memory is nobody's before all pieces have ended."""
        error: BaseException | None = None
        try:
            if self._error is None:
                self._read(piece, self._memory)
        except BaseException as raised:
            error = raised
        self.ended(error)

    def ended(self, error: BaseException | None) -> None:
        """Counts a piece that has ended, well or not."""
        with self._lock:
            self._num_left -= 1
            self._error = self._error or error
            is_last = self._num_left == 0
        if is_last and self._error is not None:
            self.future.set_exception(self._error)
        elif is_last:
            self.future.set_result(None)


class _File:
    """An open file. `direct`: reads pass the page cache by."""

    def __init__(self, path: Path, direct: bool):
        self.direct = direct and hasattr(os, "O_DIRECT")
        try:
            self.descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if self.direct else 0))
        except OSError as error:
            if error.errno != errno.EINVAL or not self.direct:  # tmpfs, for one, has no O_DIRECT
                raise ValueError(f"{path}: could not be opened ({error.strerror}); load the model again") from None
            self.direct = False
            self.descriptor = os.open(path, os.O_RDONLY)
        if hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(self.descriptor, fcntl.F_NOCACHE, 1)

    def direct_off(self) -> None:
        """Reads go through the page cache from now on."""
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self.direct = False
