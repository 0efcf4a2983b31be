"""Reads of files into memory, several in flight, past the page cache.

    submit([read, read, ...]) --threads--> Future, done with the last read

Linux: O_DIRECT where the file system has it, for which offsets, lengths and addresses are multiples of `ALIGNMENT`.
Elsewhere plain reads: the pages are then dropped from the cache (Linux), or not kept (macOS, F_NOCACHE).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

ALIGNMENT = 4096
IN_FLIGHT = 8
"""Reads at a time. An SSD needs several to reach its rate."""
PIECE = 4 << 20
"""Bytes of a read at most: the pieces of what somebody waits for are read side by side."""


class DirectFile:
    """A file open for reading. `direct`: reads pass the page cache by. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path, direct: bool = True):
        flags = os.O_RDONLY | os.O_CLOEXEC
        self.direct = direct and hasattr(os, "O_DIRECT")
        try:
            self.descriptor = os.open(path, flags | (os.O_DIRECT if self.direct else 0))
        except OSError as error:
            if error.errno != errno.EINVAL or not self.direct:  # some file systems have no O_DIRECT
                raise
            self.direct = False
            self.descriptor = os.open(path, flags)
        if hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(self.descriptor, fcntl.F_NOCACHE, 1)

    def read(self, views: Sequence[memoryview], begin: int, num_bytes: int) -> int:
        """Fills `views`, one after another, with the bytes from `begin` on, until `num_bytes` are there.

        Returns the number of bytes that came: fewer where the file ends. Raises ReadError, an OSError.
        """
        done = 0
        while done < num_bytes:
            was_direct = self.direct
            try:
                count = os.preadv(self.descriptor, _after(views, done), begin + done)
            except OSError as error:
                if error.errno == errno.EINVAL and was_direct:  # a file system that takes the flag alone
                    self._direct_off()
                    continue
                raise ReadError(error.errno, error.strerror or "", begin + done) from None
            if not count:
                break
            if self.direct and done + count < num_bytes and count % ALIGNMENT:
                count -= count % ALIGNMENT
                if not count:
                    self._direct_off()
            done += count
        if done and not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, begin, done, os.POSIX_FADV_DONTNEED)
        return done

    def close(self) -> None:
        os.close(self.descriptor)

    def _direct_off(self) -> None:
        """Reads go through the page cache from now on."""
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self.direct = False


class ReadError(OSError):
    """An error of the disk. `offset`: the byte of the file that could not be read."""

    def __init__(self, number: int | None, text: str, offset: int):
        super().__init__(number, text)
        self.offset = offset


class ReadThreads:
    """Threads that run reads. Those that somebody waits for come before those that are only expected."""

    def __init__(self, name: str, owner: str, in_flight: int = IN_FLIGHT):
        """`owner`: who reads, in messages."""
        self._owner = owner
        self._urgent: deque[tuple[_Task, Callable[[], None]]] = deque()
        self._ahead: deque[tuple[_Task, Callable[[], None]]] = deque()
        self._lock = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(in_flight)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, reads: Sequence[Callable[[], None]], urgent: bool = True) -> Future[None]:
        """Runs all reads, each in any thread. The future ends with the last, or raises what the first that failed did.

        Raises ValueError once the threads are closed.
        """
        task = _Task(len(reads))
        if not reads:
            task.future.set_result(None)
        with self._lock:
            if self._closed:
                raise ValueError(f"the reader of {self._owner} is closed; load the model again")
            queue = self._urgent if urgent else self._ahead
            queue.extend((task, read) for read in reads)
            self._lock.notify(len(reads))
        return task.future

    def close(self) -> None:
        """Ends the threads once their reads have ended. Reads that wait fail."""
        with self._lock:
            self._closed = True
            waiting = [*self._urgent, *self._ahead]
            for queue in (self._urgent, self._ahead):
                queue.clear()
            self._lock.notify_all()
        for task, _ in waiting:
            task.ended(ValueError(f"the reader of {self._owner} was closed amid a read; load the model again"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                while not (self._urgent or self._ahead or self._closed):
                    self._lock.wait()
                if self._closed:
                    return
                task, read = (self._urgent or self._ahead).popleft()
            task.run(read)


class _Task:
    """The reads of one future. What they fill is nobody's before all of them have ended."""

    def __init__(self, num_reads: int):
        self.future: Future[None] = Future()
        self._lock = threading.Lock()
        self._num_left = num_reads
        self._error: BaseException | None = None

    def run(self, read: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            if self._error is None:
                read()
        except BaseException as raised:
            error = raised
        self.ended(error)

    def ended(self, error: BaseException | None) -> None:
        """Counts a read that has ended, well or not."""
        with self._lock:
            self._num_left -= 1
            self._error = self._error or error
            is_last = self._num_left == 0
        if is_last and self._error is not None:
            self.future.set_exception(self._error)
        elif is_last:
            self.future.set_result(None)


def _after(views: Sequence[memoryview], done: int) -> list[memoryview]:
    """Returns what is left of `views` behind their first `done` bytes."""
    left = []
    for view in views:
        if done < len(view):
            left.append(view[done:] if done else view)
        done = max(done - len(view), 0)
    return left
