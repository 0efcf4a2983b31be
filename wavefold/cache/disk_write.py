"""The thread that writes records: one `pwrite` each, into segments that this process alone writes.

A segment has blocks of one chain, up to `RUN_BLOCKS` one after another, or one state. So what is removed at once was
used at once. A block whose parent is not the last one of an open segment begins a new segment. A segment that is closed
never grows again.

Nothing is written whose parent is not there: it could not be found. Nothing that is in the way of a record removes the
chain before it. A disk that refuses a write is left alone for `PAUSE_S`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wavefold.cache.disk_index import Index, Segment
from wavefold.cache.ledger import SUFFIX, Ledger, use
from wavefold.cache.segment import BLOCK, PAGE, STATE, Header, seal
from wavefold.system import huge_memory

RUN_BLOCKS = 16
"""Blocks of a segment at most: 2,048 tokens."""
MOST_OPEN = 64
MOST_WAITING = 128 << 20
"""Bytes that may wait for the disk. Who has more waits with them, for `WAIT_S` at most."""
WAIT_S = 1.0
"""A disk that makes no room in this time is too slow: nothing is taken until half of what waits is written."""
SPARE = 64 << 20
"""Bytes of memory kept for the next records."""
IDLE_S = 1.0
"""An open segment cannot be removed, so those of an idle process are closed."""
PAUSE_S = 30.0
PART = 1 << 30
"""Bytes of a write at most."""


class Buffers:
    """Memory for slots, aligned to pages, used again: new pages cost more than the copy into them."""

    def __init__(self) -> None:
        self._spare: dict[int, list[mmap.mmap]] = {}
        self._num_spare_bytes = 0
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> mmap.mmap:
        """Returns memory of `num_bytes`, and of a page at least."""
        num_bytes = max(num_bytes, PAGE)
        with self._lock:
            if spare := self._spare.get(num_bytes):
                self._num_spare_bytes -= num_bytes
                return spare.pop()
        return huge_memory(num_bytes)

    def give(self, memory: mmap.mmap) -> None:
        with self._lock:
            if self._num_spare_bytes + len(memory) <= SPARE:
                self._num_spare_bytes += len(memory)
                self._spare.setdefault(len(memory), []).append(memory)


@dataclass(frozen=True)
class Record:
    """A slot to be written: its payload, then zeros, in `memory`."""

    index: Index
    header: Header
    key: bytes
    parent: bytes
    memory: mmap.mmap


@dataclass(eq=False)
class _OpenSegment:
    """A segment that is written. `handle`: its file, locked as in use. `tip`: the key of its last record."""

    index: Index
    segment: Segment
    handle: int
    tip: bytes
    num_slots: int = 0


class Writer:
    """Writes what `add` takes, in this order. `say` tells a user once of each kind of trouble."""

    def __init__(self, ledger: Ledger, say: Callable[[str, str], None]):
        self._ledger, self._say = ledger, say
        self.counts: Counter[str] = Counter()
        self.buffers = Buffers()
        self._queue: deque[Record | tuple[Index, Sequence[bytes]]] = deque()
        self._waiting: set[tuple[int, int, bytes]] = set()
        self._num_waiting_bytes = 0
        self._changed = threading.Condition()
        self._busy = self._closed = self._is_slow = False
        self._open: OrderedDict[tuple[int, int, bytes], _OpenSegment] = OrderedDict()
        self._paused_until = 0.0
        self._thread: threading.Thread | None = None

    def add(self, index: Index, header: Header, key: bytes, parent: bytes, payload: memoryview) -> None:
        """Takes a copy of a record's payload. Not kept, and counted, where the disk is too slow."""
        name = (id(index), header.kind, key)
        with self._changed:
            if name in self._waiting or self._closed:
                return
            if self._is_slow or not self._changed.wait_for(lambda: self._has_room(header.slot_bytes), WAIT_S):
                self._is_slow = self._num_waiting_bytes > MOST_WAITING // 2
                self.counts["dropped"] += 1
                self._say("slow", f"{self._ledger.folder}: takes too long to write; some prompts are not kept there")
                return
            self._waiting.add(name)
            self._num_waiting_bytes += header.slot_bytes
        memory = self.buffers.take(header.slot_bytes)
        slot = np.frombuffer(memory, np.uint8)
        if header.length:
            np.copyto(slot[: header.length], np.frombuffer(payload, np.uint8))
        slot[header.length :] = 0
        del slot
        self._append(Record(index, header, key, parent, memory))

    def use(self, index: Index, keys: Sequence[bytes]) -> None:
        """A chain, from head to tail, is used now."""
        self._append((index, keys))

    def flush(self) -> None:
        """Returns once all that was taken is written, or was refused."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._queue or self._busy))

    def close(self) -> None:
        """Writes what waits, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _has_room(self, num_bytes: int) -> bool:
        return not self._num_waiting_bytes or self._num_waiting_bytes + num_bytes <= MOST_WAITING or self._closed

    def _append(self, entry: Record | tuple[Index, Sequence[bytes]]) -> None:
        with self._changed:
            if self._closed:  # nobody would take it
                return
            self._queue.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="prefix-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (entries := self._next()) is not None:
                for entry in entries:
                    self._run(entry)
                if not entries:
                    self._close_all()
            self._close_all()
        finally:  # after an error that nobody expected too: nobody waits for ever
            with self._changed:
                self._closed, self._busy = True, False
                self._queue.clear()
                self._changed.notify_all()

    def _next(self) -> list[Record | tuple[Index, Sequence[bytes]]] | None:
        """What is to be done next: one thing, nothing once the process is idle; None at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._queue or self._closed, IDLE_S if self._open else None)
            if self._closed and not self._queue:
                return None
            self._busy = True
            return [self._queue.popleft()] if self._queue else []

    def _run(self, entry: Record | tuple[Index, Sequence[bytes]]) -> None:
        if not isinstance(entry, Record):
            self._use(*entry)
            return
        try:
            self._write(entry)
        except OSError as error:
            self._trouble(error)
        finally:
            with self._changed:
                self._waiting.discard((id(entry.index), entry.header.kind, entry.key))
                self._num_waiting_bytes -= entry.header.slot_bytes
                self._is_slow = self._is_slow and self._num_waiting_bytes > MOST_WAITING // 2
            self.buffers.give(entry.memory)

    def _write(self, record: Record) -> None:
        index, header = record.index, record.header
        if index.place(header.kind, record.key) is not None:
            return
        if time.monotonic() < self._paused_until:
            self.counts["refused"] += 1
            return
        before = record.key if header.kind == STATE else record.parent
        if before != index.space and index.place(BLOCK, before) is None:
            self.counts["orphans"] += 1
            return
        segment = self._room(record)
        if segment is None:
            self.counts["over the cap"] += 1
            self._say("cap", f"{self._ledger.folder}: no room for a record of {header.slot_bytes:,} bytes under the "
                      "cap; what is longer than the cache is not kept")  # fmt: skip
            return
        number = segment.num_slots
        with memoryview(record.memory) as slot:
            seal(header, number, record.key, record.parent, slot)
            try:
                _write_all(segment.handle, slot, header.offset(number))
            except OSError:
                self._close(segment, torn=True)
                raise
        segment.num_slots += 1
        segment.tip = record.key
        self._open[id(index), header.kind, record.key] = segment
        index.add(segment.segment, number, record.key, record.parent)
        self.counts["records"] += 1
        self.counts["payload bytes"] += header.length
        self.counts["bytes"] += header.slot_bytes
        if segment.num_slots == header.capacity:
            self._close(segment)

    def _room(self, record: Record) -> _OpenSegment | None:
        """A segment with a free slot at its end for the record, out of the dictionary of open ones; None: the cap."""
        index, header = record.index, record.header

        def keep() -> set[str]:
            return set(index.segments_of(BLOCK, index.chain(record.parent if header.kind == BLOCK else record.key)))

        segment = self._open.pop((id(index), header.kind, record.parent), None) if header.kind == BLOCK else None
        for attempt in range(2):
            try:
                with self._ledger.turn() as turn:
                    if segment is not None and not os.fstat(segment.handle).st_nlink:
                        gone, segment = segment, None
                        self._close(gone, gone=True)
                    needed = header.slot_bytes if segment is not None else PAGE + header.slot_bytes
                    if turn.room_for(needed, keep):
                        if segment is not None:
                            turn.grow(segment.handle, header.slot_bytes)
                            return segment
                        name = f"{index.prefix}-{header.kind}-{secrets.token_hex(8)}{SUFFIX}"
                        handle = turn.create(name, header.pack(), header.slot_bytes)
                        self.counts["bytes"] += PAGE
                        break
            except OSError:
                if segment is not None:  # no longer among the open ones: nobody else would close it
                    self._close(segment)
                raise
            if attempt or not self._open:
                if segment is not None:
                    self._close(segment)
                return None
            self._close_all()
        _past_the_page_cache(handle)
        while len(self._open) >= MOST_OPEN:
            self._close(next(iter(self._open.values())))
        return _OpenSegment(index, Segment(self._ledger.folder / name, header, is_own=True), handle, record.parent)

    def _use(self, index: Index, keys: Sequence[bytes]) -> None:
        state = next((key for key in reversed(keys) if index.place(STATE, key)), None)
        names = index.segments_of(STATE, [state]) if state is not None else []
        use(self._ledger.folder, names + index.segments_of(BLOCK, list(reversed(keys))))

    def _close(self, segment: _OpenSegment, torn: bool = False, gone: bool = False) -> None:
        """Closes a segment. Its chain is newer than what was there before, its head newest."""
        for name, other in list(self._open.items()):
            if other is segment:
                del self._open[name]
        header, index = segment.segment.header, segment.index
        if torn and not gone:
            self._cut(segment)
        os.close(segment.handle)
        if gone:
            index.forget_segment(segment.segment.path.name)
            return
        chain = index.chain(segment.tip)
        names = [segment.segment.path.name] if header.kind == STATE else []
        use(self._ledger.folder, names + index.segments_of(BLOCK, chain))

    def _close_all(self) -> None:
        for segment in list(dict.fromkeys(self._open.values())):
            self._close(segment)

    def _cut(self, segment: _OpenSegment) -> None:
        """Gives the slot back that could not be written; a segment without any goes."""
        try:
            with self._ledger.turn() as turn:
                turn.grow(segment.handle, -segment.segment.header.slot_bytes)
                if not segment.num_slots:
                    os.unlink(segment.segment.path)
                    turn.count(-PAGE)
        except OSError as error:
            self._trouble(error)

    def _trouble(self, error: OSError) -> None:
        """The disk refused something: misses from now on, for a while."""
        self.counts["errors"] += 1
        self._paused_until = time.monotonic() + PAUSE_S
        name = errno.errorcode.get(error.errno or 0, "error")
        self._say(name, f"{self._ledger.folder}: cannot be written ({error.strerror or error}); prompts are not kept "
                  "there for now, and what is there is still read")  # fmt: skip


def _write_all(file: int, slot: memoryview, offset: int) -> None:
    done = 0
    while done < len(slot):
        with slot[done : done + PART] as rest:
            try:
                count = os.pwrite(file, rest, offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _through_the_page_cache(file):
                    raise
                continue
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def _past_the_page_cache(file: int) -> None:
    """Asks for O_DIRECT: what is written is not read soon, and should not push out what is."""
    if hasattr(os, "O_DIRECT"):
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError:  # some file systems have none
            return


def _through_the_page_cache(file: int) -> bool:
    """Takes O_DIRECT away. False where it was not there."""
    flags, direct = fcntl.fcntl(file, fcntl.F_GETFL), getattr(os, "O_DIRECT", 0)
    fcntl.fcntl(file, fcntl.F_SETFL, flags & ~direct)
    return bool(flags & direct)
