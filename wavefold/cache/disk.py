"""The prefix cache on disk: blocks and states of prompts, for every process that shares a folder and its model.

    DiskCache(folder, cap)            one a process and folder: ledger, writer, reader
      Space(digest, sizes)            what one model, arithmetic and layout can use: find, put, read, touch

Segment files hold the records (`segment.py`), an index in memory finds them (`disk_index.py`), one thread writes
(`disk_write.py`), several read (`disk_read.py`), and the ledger keeps the cap (`ledger.py`). Nothing here fails a
request: what cannot be read is a miss, what cannot be written is not kept; both are counted, and each kind of trouble
is said once, as a Notice, by the next call. docs/prefix_disk.md has the bytes of a file.

The folder is trusted as the model's files are. Checksums find damage, not malice.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from wavefold.cache.disk_index import Found, Index
from wavefold.cache.disk_read import Reading, RecordReader, Wanted
from wavefold.cache.disk_write import RUN_BLOCKS, Writer
from wavefold.cache.ledger import Ledger
from wavefold.cache.segment import BLOCK, DIGEST_BYTES, KEY_BYTES, STATE, Header
from wavefold.system import Notice

LEAST_STATES = 4
"""Room for fewer is of little use beside the blocks."""

__all__ = ["DiskCache", "Found", "Space"]


class DiskCache:
    """A folder of records. It is made where it is missing, for its owner alone. Threads may share it."""

    def __init__(self, folder: Path, cap_bytes: int):
        """`cap_bytes`: of all files in the folder, at every moment, whoever writes; older files over it go now.

        Raises ValueError for a cap below 1. A folder that cannot be used is a Notice, and a cache without records.
        """
        if cap_bytes < 1:
            raise ValueError(f"cap_bytes = {cap_bytes} is not allowed; expected 1 or more")
        self.folder, self.cap_bytes = Path(folder).absolute(), cap_bytes
        self._process = os.getpid()
        self._ledger = Ledger(self.folder, cap_bytes)
        self._notices = _Notices()
        self.writer = Writer(self._ledger, self._notices.add)
        self.reader = RecordReader(self.writer.buffers)
        self._spaces: dict[bytes, Space] = {}
        self._lock = threading.Lock()
        self._is_writable = False
        self._ledger.on_remove = self._removed
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._ledger.turn() as turn:
                turn.set_cap(cap_bytes)
            self._is_writable = True
        except OSError as error:
            self.notice("folder", f"{self.folder}: cannot be written ({error.strerror or error}); prompts are not kept "
                        "there")  # fmt: skip
        self.emit()

    def space(self, digest: bytes, block_bytes: int, state_bytes: int, about: str) -> Space:
        """Returns the records of one space. `about`: what it is, for `wavefold cache ls`. The cache owns it."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(digest)} bytes is not allowed; expected {DIGEST_BYTES}")
        with self._lock:
            if (space := self._spaces.get(digest)) is None:
                space = self._spaces[digest] = Space(self, digest, block_bytes, state_bytes, about)
        self.emit()
        return space

    def flush(self) -> None:
        """Returns once all that was put is written, or was refused."""
        self.writer.flush()
        self.emit()

    def stats(self) -> dict[str, int]:
        """Returns what this process did and saw: records and bytes written and read, what was refused, and why."""
        counts = {f"written {name}": count for name, count in sorted(self.writer.counts.items())}
        counts |= {f"read {name}": count for name, count in sorted(self.reader.counts.items())}
        counts["removed segments"] = self._ledger.num_removed
        for space in list(self._spaces.values()):
            for name, count in space.index.counts.items():
                counts[f"{name} segments"] = counts.get(f"{name} segments", 0) + count
        return counts

    def close(self) -> None:
        """Writes what waits. Afterwards nothing is found, kept or read."""
        self.writer.close()
        self.reader.close()
        self._ledger.close()
        self.emit()

    @property
    def is_writable(self) -> bool:
        return self._is_writable and self.is_here

    @property
    def is_here(self) -> bool:
        """False in a process that was forked from the cache's own: its threads are not there."""
        return os.getpid() == self._process

    def _removed(self, name: str) -> None:
        for space in list(self._spaces.values()):
            space.index.forget_segment(name)

    def notice(self, kind: str, text: str) -> None:
        self._notices.add(kind, text)

    def emit(self) -> None:
        """Says what is new to a user, in the thread of who called."""
        self._notices.emit()

    def __enter__(self) -> DiskCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Space:
    """The records that one model, arithmetic and layout can use. All methods may be called by all threads."""

    def __init__(self, cache: DiskCache, digest: bytes, block_bytes: int, state_bytes: int, about: str):
        self._cache = cache
        run = max(1, min(RUN_BLOCKS, cache.cap_bytes // 16 // max(block_bytes, 1)))
        self.headers = Header(BLOCK, block_bytes, run, digest, about), Header(STATE, state_bytes, 1, digest, about)
        least = LEAST_STATES * self.headers[STATE].slot_bytes
        if cache.cap_bytes < least:
            text = f"{cache.cap_bytes:,} bytes hold blocks that nothing can be opened at"
            text += f"; expected {least:,} at least, {LEAST_STATES} states of this model"
            cache.notice("small cap", f"{cache.folder}: {text}")
        self.index = Index(cache.folder, digest, (block_bytes, state_bytes))
        self.index.refresh()
        self._name_strange()

    def find(self, keys: Sequence[bytes]) -> list[Found]:
        """Returns what is there of each key. What was put a moment ago may still wait for the disk."""
        found = self.index.find(keys if self._cache.is_here else ())
        found += [Found(False, False)] * (len(keys) - len(found))
        self._name_strange()
        self._cache.emit()
        return found

    def put(self, key: bytes, parent: bytes, block: memoryview | None, state: memoryview | None) -> None:
        """Keeps what is not there yet of a block's rows and of the state behind it. Copies both before it returns.

        `parent`: the key of the block before, or the space's digest. Nothing is kept whose parent is not there or
        before it in the queue. Raises ValueError for sizes that are not the space's.
        """
        for header, payload in zip(self.headers, (block, state), strict=True):
            if payload is None:
                continue
            if len(key) != KEY_BYTES or len(parent) != KEY_BYTES or payload.nbytes != header.length:
                raise ValueError(
                    f"{payload.nbytes:,} bytes under a key of {len(key)} bytes are not allowed; expected "
                    f"{header.length:,} bytes and keys of {KEY_BYTES}"
                )
            if self._cache.is_writable and self.index.place(header.kind, key) is None:
                self._cache.writer.add(self.index, header, key, parent, payload)
        self._cache.emit()

    def start(
        self, keys: Sequence[bytes], blocks: Sequence[memoryview], state_key: bytes | None = None,
        state: memoryview | None = None,
    ) -> SpaceReading:  # fmt: skip
        """Begins to read blocks and a state into memory, which is not the caller's until `SpaceReading.wait`.

        Memory with room for a whole slot is filled with one: behind the record, `Header.length` bytes, anything lies.
        """
        wanted = [Wanted(BLOCK, key, memory, self.index.place(BLOCK, key))
                  for key, memory in zip(keys, blocks, strict=True)]  # fmt: skip
        if state_key is not None:
            assert state is not None
            wanted.insert(0, Wanted(STATE, state_key, state, self.index.place(STATE, state_key)))
        for one in wanted:
            expected = self.headers[one.kind].length
            if one.memory.nbytes < expected:
                raise ValueError(
                    f"memory of {one.memory.nbytes:,} bytes is not allowed; expected {expected:,} bytes or more"
                )
        return SpaceReading(self._cache, self._cache.reader.start(self.index, wanted), state_key is not None)

    def read(
        self, keys: Sequence[bytes], blocks: Sequence[memoryview], state_key: bytes | None = None,
        state: memoryview | None = None,
    ) -> int:  # fmt: skip
        """Reads blocks and a state straight into memory; returns the number of leading blocks that are right.

        0 if the state was asked for and is not right. Memory of what is not right has any content.
        """
        return self.start(keys, blocks, state_key, state).wait()

    def settle(self) -> None:
        """Returns once nothing is read into anybody's memory."""
        self._cache.reader.settle()

    def touch(self, keys: Sequence[bytes]) -> None:
        """A chain, from its head on, is used now, and the last state on it."""
        if self._cache.is_writable and keys:
            self._cache.writer.use(self.index, list(keys))
        self._cache.emit()

    def _name_strange(self) -> None:
        reasons = {"damaged": "are damaged", "newer": "were written by a newer version",
                   "foreign": "belong to something else"}  # fmt: skip
        for name, reason in reasons.items():
            if self.index.counts[name]:
                self._cache.notice(f"segments {name}", f"{self._cache.folder}: segments {reason}; they are not used")


class SpaceReading:
    """Blocks and a state that are being read."""

    def __init__(self, cache: DiskCache, reading: Reading, has_state: bool):
        self._cache, self._reading, self._has_state = cache, reading, has_state
        self._count: int | None = None

    def wait(self) -> int:
        """Returns the number of leading blocks that are right; 0 if the state is not. A second call says the same."""
        if self._count is None:
            right, problems = self._read()
            rights = [(one.kind, one.key) in right for one in self._reading.wanted]
            for problem in sorted(problems):
                self._cache.notice(f"reading {problem}", f"{self._cache.folder}: records that were "
                                   f"{'damaged' if problem == 'corrupt' else f'not to be read ({problem})'}; they are "
                                   "computed again")  # fmt: skip
            state_right = rights.pop(0) if self._has_state else True
            self._count = rights.index(False) if False in rights else len(rights)
            self._count = self._count if state_right else 0
            self._cache.emit()
        return self._count

    def _read(self) -> tuple[set[tuple[int, bytes]], set[str]]:
        """Waits for all reads, of further copies too. Returns kinds and keys of what is right, and the problems."""
        reading: Reading | None = self._reading
        right: set[tuple[int, bytes]] = set()
        problems: set[str] = set()
        while reading is not None:  # every turn, a place of each record that is not right is forgotten
            reading.wait()
            right |= {(one.kind, one.key) for one in reading.wanted if one.is_right}
            problems |= {one.problem for one in reading.wanted} - {"", "missing", "gone"}
            reading = reading.again()
        return right, problems


class _Notices:
    """What a user is told, once of each kind. Threads add, and whoever calls the cache says it."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._new: list[str] = []
        self._lock = threading.Lock()

    def add(self, kind: str, text: str) -> None:
        with self._lock:
            if kind not in self._seen:
                self._seen.add(kind)
                self._new.append(text)

    def emit(self) -> None:
        if not self._new:
            return
        with self._lock:
            texts, self._new = self._new, []
        for text in texts:
            warnings.warn(text, Notice, stacklevel=3)
