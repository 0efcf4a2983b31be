"""Reads of parts of a checkpoint's files into memory, which must stay as they were when the model was loaded.

    Part(file, begin, end, at) --threads--> bytes [begin, end) of a file at memory[at:]

Several reads are in flight, past the page cache (`system/reading.py`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from wavefold.experts.mapped import Stamp, stamp_of
from wavefold.system.reading import ALIGNMENT, IN_FLIGHT, PIECE, DirectFile, ReadError, ReadThreads

__all__ = ["ALIGNMENT", "IN_FLIGHT", "Part", "ReadCounts", "Reader"]


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
        self._files: dict[int, DirectFile] = {}
        self._lock = threading.Lock()
        self.counts = ReadCounts()
        self._threads = ReadThreads("expert-reader", "routed experts", in_flight)

    def read(self, parts: Sequence[Part], memory: memoryview, urgent: bool = True) -> Future[None]:
        """Reads all parts into `memory`. Reads that are not urgent come after all that are.

        The future raises ValueError, which names file and offset, for a file that is gone, was replaced or is shorter,
        and for an error of the disk.
        """
        return self._threads.submit(
            [functools.partial(self._read, piece, memory) for piece in _pieces(parts)], urgent
        )  # fmt: skip

    def close(self) -> None:
        """Ends the threads once their reads have ended, and closes the files. Reads that wait fail."""
        self._threads.close()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, number: int) -> DirectFile:
        path = self._paths[number]
        with self._lock:
            if (file := self._files.get(number)) is None:
                try:
                    file = self._files[number] = DirectFile(path, self._direct)
                except OSError as error:
                    raise ValueError(f"{path}: could not be opened ({error.strerror}); load the model again") from None
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
        wanted = min(part.end, stamp[1])
        with memory[part.at : part.at + part.end - part.begin] as place:
            try:
                count = file.read([place], part.begin, wanted - part.begin)
            except ReadError as error:
                raise ValueError(f"{path}: byte {error.offset:,} could not be read ({error.strerror})") from None
        if count < wanted - part.begin:
            raise ValueError(f"{path}: ends at byte {part.begin + count:,}, expected {wanted:,} bytes; load it again")
        with self._lock:
            self.counts.num_reads += 1
            self.counts.num_bytes += part.end - part.begin


def _pieces(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        for begin in range(part.begin, part.end, PIECE):
            yield Part(part.file, begin, min(begin + PIECE, part.end), part.at + begin - part.begin)
