"""Which expert leaves when another comes. All have the methods of `slots.Slots` that a replay calls.

begin(layer)       a pass asks this layer for experts
key in policy      True if it has a slot
ask(key)           it has one, and is asked for
take(key, wide)    it has none, and gets one that is not pinned
pin, unpin(key)    it must stay, it may leave
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from wavefold.experts.slots import Key, Slots


class Policy(Protocol):
    """The part of `Slots` that decides. Who replays pins fewer experts than there are slots."""

    def __contains__(self, key: Key) -> bool: ...
    def begin(self, layer: int) -> None: ...
    def ask(self, key: Key) -> None: ...
    def take(self, key: Key, worthless: bool = False) -> object: ...
    def pin(self, key: Key) -> None: ...
    def unpin(self, key: Key) -> None: ...


class Recency:
    """Least recently used, over all layers. Pinned experts are the most recent ones and never leave."""

    def __init__(self, num_slots: int):
        self.num_slots = num_slots
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def begin(self, layer: int) -> None:
        pass

    def ask(self, key: Key) -> None:
        self._keys.move_to_end(key)

    def take(self, key: Key, worthless: bool = False) -> None:
        if len(self._keys) == self.num_slots:
            self._keys.popitem(last=False)
        self._keys[key] = None

    def pin(self, key: Key) -> None:
        pass

    def unpin(self, key: Key) -> None:
        pass


class LayerRecency(Recency):
    """Least recently used of its layer; each layer has an equal share of the slots, one at least.

    A layer that asks for more than its share loses pinned experts.
    """

    def __init__(self, num_slots: int, num_layers: int):
        super().__init__(num_slots)
        share, more = divmod(num_slots, num_layers)
        self._layers = [Recency(share + (layer < more)) for layer in range(num_layers)]
        if share == 0:
            raise ValueError(f"{num_slots} slots are not allowed for {num_layers} layers; expected one each at least")

    def __contains__(self, key: Key) -> bool:
        return key in self._layers[key[0]]

    def ask(self, key: Key) -> None:
        self._layers[key[0]].ask(key)

    def take(self, key: Key, worthless: bool = False) -> None:
        self._layers[key[0]].take(key)


class HotList(Recency):
    """Experts that never leave; the other slots, `num_slots` less the hot ones, are for the rest, by recency."""

    def __init__(self, num_slots: int, hot: Iterable[Key]):
        self._hot = frozenset(hot)
        super().__init__(num_slots - len(self._hot))

    def __contains__(self, key: Key) -> bool:
        return key in self._hot or key in self._keys

    def ask(self, key: Key) -> None:
        if key not in self._hot:
            super().ask(key)


class Frequency:
    """Least often asked for since the beginning, with or without a slot."""

    def __init__(self, num_slots: int, num_layers: int, num_experts: int):
        self._counts = np.zeros((num_layers, num_experts), np.int64)
        self._slot: dict[Key, int] = {}
        self._keys: list[Key] = []
        self._worth = np.zeros(num_slots, np.int64)
        self._pins = np.zeros(num_slots, np.int64)

    def __contains__(self, key: Key) -> bool:
        return key in self._slot

    def begin(self, layer: int) -> None:
        pass

    def ask(self, key: Key) -> None:
        self._counts[key] += 1
        self._worth[self._slot[key]] = self._counts[key]

    def take(self, key: Key, worthless: bool = False) -> None:
        if (slot := len(self._keys)) < len(self._worth):
            self._keys.append(key)
        else:
            slot = int((self._worth + (self._pins << 40)).argmin())
            del self._slot[self._keys[slot]]
            self._keys[slot] = key
        self._slot[key] = slot
        self.ask(key)

    def pin(self, key: Key) -> None:
        self._pins[self._slot[key]] += 1

    def unpin(self, key: Key) -> None:
        self._pins[self._slot[key]] -= 1


class Forgetful(Slots):
    """`Slots` without memory of experts that left: one that comes back counts as one that comes for the first time."""

    def take(self, key: Key, worthless: bool = False) -> tuple[int, Key | None] | None:
        self._counts.pop(key, None)
        return super().take(key, worthless)
