"""The memory of a streamed store's slots: of one size in addresses, resident where it was read into.

slot 0 | slot 1 | slot 2 | ...        `give_back` returns the pages of closed slots to the system
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from wavefold.system import huge_memory


class SlotMemory:
    """Anonymous memory of `num_slots` slots of `slot_bytes`. Nothing of it is resident before something is read."""

    def __init__(self, num_slots: int, slot_bytes: int):
        self.slot_bytes = slot_bytes
        self.memory = huge_memory(num_slots * slot_bytes)
        self.view = memoryview(self.memory)
        self._is_filled = np.zeros(num_slots, bool)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the slots that were read into and not given back since."""
        return int(self._is_filled.sum()) * self.slot_bytes

    def filled(self, slot: int) -> None:
        """Counts that a slot was read into."""
        self._is_filled[slot] = True

    def give_back(self, slots: Sequence[int]) -> None:
        """Returns the pages of slots, whose bytes are lost; neighbours among them together, with pages of 2 MiB."""
        self._is_filled[list(slots)] = False
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        runs: list[list[int]] = []
        for slot in sorted(slots):
            if runs and slot == runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([slot, slot + 1])
        page = mmap.PAGESIZE
        for first, end in runs:
            begin = -(-first * self.slot_bytes // page) * page
            if (size := end * self.slot_bytes // page * page - begin) > 0:
                self.memory.madvise(mmap.MADV_DONTNEED, begin, size)
