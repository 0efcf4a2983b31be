"""Which experts lie in which slots of a fixed memory, and which one leaves when another comes. No bytes are here.

A slot's worth is how often its expert was asked for, where an asking counts half after `HALF_LIFE` further ones of its
layer. Askings are remembered of experts that left, too: else one that comes back would look as rare as one that comes
for the first time. An expert that came during a wide pass, one that asks for most of a layer's experts, is worth
nothing until it is asked for again: passes go over the layers in circles, and the expert that has just served is the
one whose next turn is farthest away.

Slots can be closed, from the last one on, when memory becomes scarce, and opened again, from the first one on.
"""

from __future__ import annotations

import numpy as np

Key = tuple[int, int]
"""Layer and expert."""
HALF_LIFE = 64.0


class Slots:
    """`num_slots` slots for experts of `num_layers` layers; `num_usable` of them are not closed."""

    def __init__(self, num_slots: int, num_layers: int):
        self.num_slots = self.num_usable = num_slots
        self._slot: dict[Key, int] = {}
        self._keys: list[Key | None] = [None] * num_slots
        self._worth = np.full(num_slots, -np.inf)
        self._counts: dict[Key, float] = {}
        """Decayed askings of all experts, as logarithms."""
        self._pins = np.zeros(num_slots, np.int32)
        self._closed = np.zeros(num_slots, bool)
        self._askings = np.zeros(num_layers, np.int64)

    def __contains__(self, key: Key) -> bool:
        return key in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def find(self, key: Key) -> int | None:
        """Returns the slot of an expert, or None."""
        return self._slot.get(key)

    def begin(self, layer: int) -> None:
        """Counts a pass of a layer, from which on older askings are worth less."""
        self._askings[layer] += 1

    def ask(self, key: Key) -> None:
        """Counts that an expert, which has a slot, is asked for."""
        self._worth[self._slot[key]] = self._counted(key)

    def take(self, key: Key, worthless: bool = False) -> tuple[int, Key | None] | None:
        """Gives an expert a slot, an empty one or that of the expert that is worth least, and counts an asking.

        `worthless`: it is not counted, and this expert is the next one to leave until it is asked for. Returns the slot
        and the expert that left it, or None where all are pinned or closed.
        """
        open_worths = np.where(self._is_open(), self._worth, np.inf)
        slot = int(open_worths.argmin())
        if open_worths[slot] == np.inf:
            return None
        left = self._keys[slot]
        if left is not None:
            del self._slot[left]
        self._slot[key], self._keys[slot] = slot, key
        self._worth[slot] = -1e300 if worthless else self._counted(key)
        return slot, left

    def _counted(self, key: Key) -> float:
        """Counts an asking. Returns the logarithm of the expert's decayed askings."""
        # all are on one scale: 2^(t / half-life) more for an asking at t, which never has to be decayed
        now = self._askings[key[0]] / HALF_LIFE
        count = self._counts[key] = float(np.logaddexp2(self._counts.get(key, -np.inf), now))
        return count

    def drop(self, key: Key) -> None:
        """Takes an expert's slot away, as after a read that failed."""
        slot = self._slot.pop(key)
        self._keys[slot], self._worth[slot] = None, -np.inf

    def pin(self, key: Key) -> None:
        self._pins[self._slot[key]] += 1

    def unpin(self, key: Key) -> None:
        self._pins[self._slot[key]] -= 1

    def num_pins(self, key: Key) -> int:
        """Returns how often an expert's slot is pinned."""
        return int(self._pins[self._slot[key]])

    def num_open(self) -> int:
        """Returns the number of slots that are neither pinned nor closed."""
        return int(self._is_open().sum())

    def close(self, count: int) -> list[tuple[int, Key | None]]:
        """Closes the last `count` open slots, or all. Returns the slots and the experts that left them.

        They are the last ones, whatever their experts are worth: memory is given back in one range.
        """
        closed = [(slot, self._keys[slot]) for slot in np.flatnonzero(self._is_open())[::-1][: max(0, count)].tolist()]
        for slot, key in closed:
            if key is not None:
                self.drop(key)
            self._closed[slot] = True
        self.num_usable -= len(closed)
        return closed

    def reopen(self, count: int) -> int:
        """Opens the first `count` closed slots, or all. Returns how many they were."""
        slots = np.flatnonzero(self._closed)[: max(0, count)]
        self._closed[slots] = False
        self.num_usable += len(slots)
        return len(slots)

    def _is_open(self) -> np.ndarray:
        return (self._pins == 0) & ~self._closed
