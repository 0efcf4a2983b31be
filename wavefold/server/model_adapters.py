"""The adapters of one model in memory: which were read, which were used last, which are in use."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping

from wavefold.llm import LLM
from wavefold.pool.folder import Entry


class ModelAdapters:
    """Those that `llm` has read for a pool, by the names under which they are asked for."""

    def __init__(self, llm: LLM):
        self._llm = llm
        self._read: dict[str, Entry] = {}
        """As they were found, the last used last."""
        self._users: Counter[str] = Counter()

    def adopt(self, entry: Entry) -> None:
        """Notes an adapter that `llm` has read."""
        self._read[entry.name] = entry

    def has(self, name: str) -> bool:
        """True if the adapter of this name has been read."""
        return name in self._read

    def has_now(self, entry: Entry) -> bool:
        """True if this adapter has been read, as it is now."""
        return self._read.get(entry.name) == entry

    def not_in(self, entries: Mapping[str, Entry]) -> list[str]:
        """Those that were read, and are not there any more as they were."""
        return [name for name, entry in self._read.items() if entries.get(name) != entry]

    @property
    def num_bytes(self) -> int:
        """Bytes of all."""
        return sum(entry.num_bytes for entry in self._read.values())

    @property
    def unused_bytes(self) -> int:
        """Bytes of those that nobody uses."""
        return sum(entry.num_bytes for name, entry in self._read.items() if not self._users[name])

    def bytes_of(self, name: str) -> int:
        """Bytes of one; 0 if it has not been read."""
        entry = self._read.get(name)
        return 0 if entry is None else entry.num_bytes

    def touch(self, name: str) -> None:
        """One that has been read is used now."""
        self._read[name] = self._read.pop(name)

    def forget(self, name: str) -> None:
        """Takes one away, if it is there; answers that go through it run to their ends."""
        if self._read.pop(name, None) is not None:
            self._llm.unload_adapter(name)

    def forget_oldest(self) -> bool:
        """Takes the one away that was used first of those that nobody uses. Returns False if there is none."""
        oldest = next((name for name in self._read if not self._users[name]), None)
        if oldest is not None:
            self.forget(oldest)
        return oldest is not None

    @contextlib.contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """One is not forgotten for another one meanwhile."""
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1
