"""Memory-mapped parts of files, or copies of them in memory of huge pages.

Mappings are private: a write to a tensor changes memory of this process, never the file.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavefold.system import huge_memory

# A file may be larger than memory: none is reserved. Older Pythons lack the name; 0x4000 is Linux on x86 and ARM.
MAP_FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)

Stamp = tuple[int, int, int]


def stamp_of(file: Path | int) -> Stamp:
    """What tells a file, by its path or descriptor, from one that took its place.

    Inode, size, time of the last change in nanoseconds.
    """
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


class MappedSpan:
    """Bytes [begin, end) of a file, mapped. They are unmapped with their last tensor."""

    def __init__(self, path: Path, begin: int, end: int, stamp: Stamp | None = None, copied: bool = False):
        """`copied`: the bytes are read now, into anonymous memory that asks for huge pages.

        Raises ValueError for a file that is gone, or is another one than `stamp` says."""
        try:
            found = stamp_of(path)
        except OSError as error:
            raise ValueError(f"{path}: is gone since the model was loaded ({error.strerror}); load it again") from None
        if stamp is not None and found != stamp:
            raise ValueError(f"{path}: was replaced since the model was loaded; load it again")
        self._first = begin - begin % mmap.ALLOCATIONGRANULARITY
        if copied:
            self._data = _copied(path, self._first, end)
            return
        with path.open("rb") as file:
            self._data = mmap.mmap(
                file.fileno(), end - self._first, flags=MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=self._first,
            )  # fmt: skip

    def tensor(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor that begins at `offset` of the file. It must not be empty."""
        count = int(np.prod(shape))
        return torch.frombuffer(self._data, dtype=dtype, count=count, offset=offset - self._first).view(shape)

    @property
    def base(self) -> int:
        """The address that the file's first byte would have."""
        address: int = np.frombuffer(self._data, np.uint8, 1).__array_interface__["data"][0]
        return address - self._first


def _copied(path: Path, begin: int, end: int) -> mmap.mmap:
    """Returns anonymous memory with the bytes [begin, end) of a file. Raises ValueError for a shorter file."""
    data = huge_memory(end - begin)
    with path.open("rb", buffering=0) as file, memoryview(data) as view:
        file.seek(begin)
        done = 0
        while done < len(view):
            with view[done:] as rest:
                count = file.readinto(rest)
            if not count:
                raise ValueError(f"{path}: ends at byte {begin + done:,}, expected {end:,} bytes; load it again")
            done += count
        if hasattr(os, "posix_fadvise"):  # the page cache need not hold what memory does
            os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_DONTNEED)
    return data
