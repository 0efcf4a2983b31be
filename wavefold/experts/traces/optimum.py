"""Belady's optimum: the expert leaves that is asked for latest in the future. No policy finds more in memory.

The model: experts are asked for one at a time, in the order of passes, layers and ids. One that is in no slot is read
into one, and another leaves when all are taken. Pins are ignored, and the slots are full at the beginning, with the
experts that are asked for first. Both can only help: the optimum bounds every policy that serves the same experts in
the same order, whatever it pins and whatever it has in memory before.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from wavefold.experts.slots import Key
from wavefold.experts.traces.trace import Asking

NEVER = 1 << 60


class Optimum:
    """Replays exactly `askings`, whose future it knows."""

    def __init__(self, num_slots: int, askings: Sequence[Asking]):
        keys = [(asking.layer, expert) for asking in askings for expert in asking.experts]
        self._next = [NEVER] * len(keys)
        """When the expert of each moment is asked for again."""
        upcoming: dict[Key, int] = {}
        for moment in range(len(keys) - 1, -1, -1):
            self._next[moment] = upcoming.get(keys[moment], NEVER)
            upcoming[keys[moment]] = moment
        self._now, self._num_slots = 0, num_slots
        self._due = dict(sorted(upcoming.items(), key=lambda item: item[1])[:num_slots])
        """When each expert in a slot is asked for next."""
        self._latest = [(-due, key) for key, due in self._due.items()]
        heapq.heapify(self._latest)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def begin(self, layer: int) -> None:
        pass

    def ask(self, key: Key) -> None:
        self._due[key] = self._next[self._now]
        heapq.heappush(self._latest, (-self._due[key], key))
        self._now += 1

    def take(self, key: Key, worthless: bool = False) -> None:
        while len(self._due) >= self._num_slots:
            due, left = heapq.heappop(self._latest)
            if self._due.get(left) == -due:  # else it was asked for since
                del self._due[left]
        self.ask(key)

    def pin(self, key: Key) -> None:
        pass

    def unpin(self, key: Key) -> None:
        pass
