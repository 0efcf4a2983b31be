"""A store of more experts than memory holds: the files stay where they are, and a fixed number of slots is read into.

    groups(layer, ids)    experts that are here, and reads of the others in flight -> views, as they come, in order
    expect(layer, ids)    reads ahead, after all that somebody waits for

    fit(bytes)            fewer slots, whose memory is given back, or more of them again (`pressure.py`)

Everything that is read lies in one memory of a fixed size, which is never exceeded. A truncated or replaced file
is an error of the request that needed it.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from itertools import islice, takewhile

import numpy as np

from wavefold.experts.places import laid_out, slot_bytes, tensors_in
from wavefold.experts.reading import IN_FLIGHT, Part, Reader
from wavefold.experts.slot_memory import SlotMemory
from wavefold.experts.slots import Key, Slots
from wavefold.experts.store import ExpertStore, ExpertView, ExpertWeights
from wavefold.experts.stream_counts import StreamCounts
from wavefold.experts.table import ABSENT, ExpertTable
from wavefold.system import huge_memory

LEAST_SLOTS = 2
WIDE = 0.75
"""A pass that asks for more than this share of a layer's experts is wide (`slots.py`)."""
LEAST_PRECISION, TRIALS, PAUSE = 0.5, 32, 512
"""Look-ahead of a layer stops for PAUSE passes if fewer than half of what it read was used, over TRIALS experts."""


class StreamedExperts(ExpertStore):
    """All experts of a table whose tensors lie in files, at most `num_slots` of them in memory."""

    wants_hints = True

    def __init__(self, table: ExpertTable, num_slots: int, in_flight: int = IN_FLIGHT, direct: bool = True):
        """Raises ValueError for fewer slots than `LEAST_SLOTS`."""
        if num_slots < LEAST_SLOTS:
            raise ValueError(f"{num_slots} slots for routed experts are not allowed; expected {LEAST_SLOTS} at least")
        self._in_files = table.file[:, :, 0, 0] != ABSENT
        """[layers, experts]: over ranks, a rank's own."""
        sizes = table.nbytes().sum((2, 3))[self._in_files]
        self.table, self.slot_bytes = table, slot_bytes(int(sizes.max(initial=0)))
        self.slots = Slots(num_slots, table.num_layers)
        self._memory = SlotMemory(num_slots, self.slot_bytes)
        self._reader = Reader(table.paths, table.stamps, in_flight, direct)
        weakref.finalize(self, Reader.close, self._reader)  # its threads end with the last who refers to the store
        self.closing = threading.Event()
        """Set when the store is closed or gone."""
        weakref.finalize(self, self.closing.set)
        self._in_flight = in_flight
        self._weights: dict[Key, ExpertWeights] = {}
        self._reads: dict[Key, Future[None]] = {}
        self._errors: dict[Key, BaseException] = {}
        """Why an expert could not be read when it was last asked for."""
        self._put: dict[Key, ExpertWeights] = {}
        self._ahead: set[Key] = set()
        """Experts that were read ahead and that nobody has asked for yet."""
        self._resting = np.zeros(table.num_layers, np.int64)
        """Passes for which a layer is not read ahead."""
        self._lock = threading.RLock()
        self.counts = StreamCounts(table.num_layers)

    @property
    def most_reads(self) -> int:
        """Reads in flight for one pass, and reads ahead of it."""
        return max(1, min(2 * self._in_flight, self.slots.num_usable // 2))

    # -- asking ----------------------------------------------------------------------------------------------------

    def acquire(self, layer: int, ids: Sequence[int]) -> ExpertView:
        """Raises ValueError for more experts than there are slots; `groups` takes any number.

        Closed slots are opened again if need be.
        """
        if len(ids) > self.slots.num_slots:
            raise ValueError(f"{len(ids)} experts at once do not fit {self.slots.num_slots} slots; expected `groups`")
        with self._lock:
            self.counts.reopened += self.slots.reopen(len(ids) - self.slots.num_open())
        self._begin(layer, ids)
        started: list[int] = []
        try:
            for expert in ids:
                while not self._start(layer, expert, False):
                    self._wait_for_a_slot()
                started.append(expert)
            return ExpertView(self, layer, {expert: self._wait(layer, expert) for expert in ids})
        except BaseException:
            self._unpin(layer, started)
            raise

    def groups(self, layer: int, ids: Sequence[int], in_order: bool = True) -> Iterator[ExpertView]:
        """The first reads start now, before those that are expected after this call."""
        self._begin(layer, ids)
        run = self._groups(layer, deque(ids), len(ids) > WIDE * self._in_files[layer].sum(), in_order)
        next(run)
        return run  # type: ignore[return-value]

    def _groups(
        self, layer: int, waiting: deque[int], wide: bool, in_order: bool
    ) -> Iterator[ExpertView | None]:  # fmt: skip
        started: deque[int] = deque()
        try:
            self._fill(layer, waiting, started, wide)
            yield None
            is_first = True
            while waiting or started:
                self._fill(layer, waiting, started, wide)
                here = self._first_here(layer, started) if in_order else self._all_here(layer, started, is_first)
                is_first = False
                group = {expert: self._wait(layer, expert) for expert in here}
                for expert in group:
                    started.remove(expert)
                with ExpertView(self, layer, group) as view:
                    yield view
        finally:
            self._unpin(layer, tuple(started))

    def _first_here(self, layer: int, started: Sequence[int]) -> list[int]:
        """Returns the first expert, which may have to be waited for, and those that follow it and are here."""
        rest = takewhile(partial(self._is_here, layer), islice(started, 1, None))
        return [started[0], *rest]

    def _all_here(self, layer: int, started: Sequence[int], at_once: bool) -> list[int]:
        """Returns the experts that are here. Waits for one where there is none, unless `at_once`."""
        while not (here := [expert for expert in started if self._is_here(layer, expert)]) and not at_once:
            reads = [read for expert in started if (read := self._reads.get((layer, expert)))]
            wait(reads, return_when=FIRST_COMPLETED)
        return here

    def expect(self, layer: int, ids: Sequence[int]) -> None:
        """Starts reads of this rank's that are not here, in slots that nobody has pinned. Returns at once."""
        wide = len(ids) > WIDE * self.table.num_experts
        with self._lock:
            if self._closed or self._resting[layer]:
                return
            for expert in ids:
                key = layer, expert
                if (
                    not self._in_files[key]
                    or key in self._put
                    or key in self.slots
                    or len(self._reads) >= self.most_reads
                ):
                    continue
                if not self._read(key, wide, urgent=False):
                    return
                self._ahead.add(key)

    def expects(self, layer: int) -> bool:
        """True unless hints for this layer have no effect at present."""
        return not self._resting[layer]

    def read_rate(self, seconds: float, seed: int = 0) -> float:
        """Returns the bytes a second of reads of main layers' experts at random, as many in flight as there may be.

        They take slots of the least worth. Raises ValueError where one cannot be read.
        """
        draws, layers, experts = random.Random(seed), self.table.num_main_layers, self.table.num_experts
        before, began = self.counts.bytes, time.perf_counter()
        while time.perf_counter() - began < seconds:
            with self._lock:
                self._check_open()
                while len(self._reads) < self.most_reads:
                    key = draws.randrange(layers), draws.randrange(experts)
                    if key not in self.slots and key not in self._put and not self._read(key, True, urgent=True):
                        break
                reads = list(self._reads.values())
            for read in wait(reads, return_when=FIRST_COMPLETED).done:
                read.result()
        rate = (self.counts.bytes - before) / (time.perf_counter() - began)
        wait(reads)
        return rate

    def _begin(self, layer: int, ids: Sequence[int]) -> None:
        """Counts what was read ahead for this pass of a layer: used or not."""
        with self._lock:
            self._check_open()
            self.slots.begin(layer)
            counts, wanted = self.counts, set(ids)
            counts.asked[layer] += len(wanted)
            if self._resting[layer]:
                self._resting[layer] -= 1
            ahead = [key for key in self._ahead if key[0] == layer]
            used = sum(expert in wanted for _, expert in ahead)
            counts.ahead_used[layer] += used
            counts.ahead_unused[layer] += len(ahead) - used
            self._ahead.difference_update(ahead)
            counts.recent[layer] += used, len(ahead)
            if counts.recent[layer, 1] >= TRIALS:
                if counts.recent[layer, 0] < LEAST_PRECISION * counts.recent[layer, 1]:
                    self._resting[layer] = PAUSE
                counts.recent[layer] = 0

    def _fill(self, layer: int, waiting: deque[int], started: deque[int], wide: bool) -> None:
        """Moves experts from `waiting` to `started`, in order, while slots and reads are free."""
        while waiting:
            with self._lock:
                reads = sum((layer, expert) in self._reads for expert in started)
                if started and (reads >= self.most_reads or self.slots.num_open() <= 1):
                    return
            if self._start(layer, waiting[0], wide):
                started.append(waiting.popleft())
            elif started:
                return
            else:
                self._wait_for_a_slot()

    def _wait_for_a_slot(self) -> None:
        """Waits until a read has ended, which then gives its slot up. Raises ValueError where none is under way."""
        with self._lock:
            reads = list(self._reads.values())
        if not reads:
            raise ValueError("all slots for routed experts are pinned; close views before new ones are asked for")
        wait(reads, return_when=FIRST_COMPLETED)

    def _start(self, layer: int, expert: int, wide: bool) -> bool:
        """Pins an expert, and starts to read it if it is not here. False if no slot is open."""
        key = layer, expert
        with self._lock:
            self._check_open()
            if key in self._put:
                return True
            if key in self.slots:
                if key in self._errors:  # somebody else still holds its slot
                    raise self._errors[key]
                self.slots.ask(key)
                self.counts.hits[layer] += 1
            elif self._read(key, wide, urgent=True):
                self.counts.read[layer] += 1
            else:
                return False
            self.slots.pin(key)
            return True

    def _read(self, key: Key, wide: bool, urgent: bool) -> bool:
        """Gives an expert a slot and starts to read it. The slot is pinned until the read has ended."""
        if (taken := self.slots.take(key, wide)) is None:
            return False
        slot, left = taken
        if left is not None:
            self._forget(left)
        self._errors.pop(key, None)
        self.slots.pin(key)
        parts, self._weights[key] = self._placed(key, slot)
        read = self._reads[key] = self._reader.read(parts, self._memory.view, urgent)
        self.counts.bytes += sum(part.end - part.begin for part in parts)
        read.add_done_callback(partial(self._landed, key))
        return True

    def _landed(self, key: Key, read: Future[None]) -> None:
        """A read has ended, well or not."""
        with self._lock:
            if self._reads.get(key) is not read:  # the store was closed
                return
            del self._reads[key]
            if (slot := self.slots.find(key)) is not None:
                self._memory.filled(slot)
            self.slots.unpin(key)
            if (error := read.exception()) is not None:
                self._errors[key] = error
                self._drop(key)

    def _is_here(self, layer: int, expert: int) -> bool:
        read = self._reads.get((layer, expert))
        return read is None or read.done()

    def _wait(self, layer: int, expert: int) -> ExpertWeights:
        """Returns the tensors of a pinned expert once they have been read. Raises ValueError if they could not be."""
        key = layer, expert
        if (put := self._put.get(key)) is not None:
            return put
        if (read := self._reads.get(key)) is not None:
            read.result()
        with self._lock:
            self._check_open()
            if (error := self._errors.get(key)) is not None:
                raise error
            return self._weights[key]

    def _unpin(self, layer: int, ids: Sequence[int]) -> None:
        with self._lock:
            for expert in ids:
                key = layer, expert
                if key in self.slots and key not in self._put:
                    self.slots.unpin(key)
                    self._drop(key)

    def _drop(self, key: Key) -> None:
        """Takes the slot of an expert that could not be read, once nobody holds it."""
        if key in self._errors and key in self.slots and not self.slots.num_pins(key):
            self.slots.drop(key)
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._weights.pop(key, None)
        self._ahead.discard(key)

    # -- memory ---------------------------------------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """Bytes of slots that have been read into."""
        with self._lock:
            return self._memory.resident_bytes

    def fit(self, num_bytes: int) -> None:
        """Uses as many slots as `num_bytes` hold, `LEAST_SLOTS` at least. The memory of others is given back at once.

        Slots that are pinned stay. Where there is more room, half of the slots that it allows are opened again: another
        process may have seen it too.
        """
        with self._lock:
            if self._closed:
                return
            more = min(num_bytes // self.slot_bytes, self.slots.num_slots) - self.slots.num_usable
            if more > 0:
                self.counts.reopened += self.slots.reopen(-(-more // 2))
                return
            closed = self.slots.close(min(-more, self.slots.num_open() - LEAST_SLOTS))
            if not closed:
                return
            for _, key in closed:
                if key is not None:
                    self._forget(key)
            self._memory.give_back([slot for slot, _ in closed])
            counts, usable = self.counts, self.slots.num_usable
            counts.closed += len(closed)
            counts.least_usable = min(usable, counts.least_usable or usable)

    # -- places ----------------------------------------------------------------------------------------------------

    def _placed(self, key: Key, slot: int) -> tuple[list[Part], ExpertWeights]:
        """Returns an expert's parts of files, and its tensors as they will lie in a slot."""
        parts, places = laid_out(self.table, key, slot * self.slot_bytes)
        assert not parts or parts[-1].at + parts[-1].end - parts[-1].begin <= (slot + 1) * self.slot_bytes
        return parts, tensors_in(self.table, key, self._memory.memory, places)

    def stored(self, layer: int, expert: int) -> ExpertWeights:
        """Reads the expert into memory of its own."""
        key = layer, expert
        if (put := self._put.get(key)) is not None:
            return put
        with self._lock:
            self._check_open()
        parts, places = laid_out(self.table, key, 0)
        if not parts:
            return tensors_in(self.table, key, b"", places)
        memory = huge_memory(self.slot_bytes)
        self._reader.read(parts, memoryview(memory)).result()
        return tensors_in(self.table, key, memory, places)

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        with self._lock:
            self._check_open()
            self._put[layer, expert] = weights
            self._replaced(layer, expert, weights)

    @property
    def num_bytes(self) -> int:
        return self._bytes_with(self._put)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.closing.set()
        self._reader.close()
        with self._lock:
            for known in (self._weights, self._reads, self._put, self._errors):
                known.clear()
            self.generation += 1
        self._memory.view.release()
        del self._memory
