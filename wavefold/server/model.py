"""A model in memory that answers over HTTP: its LLM, what protocols know of it, the engine that runs its requests."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from wavefold.llm import LLM
from wavefold.pool.folder import Entry
from wavefold.server.bound import Bound
from wavefold.server.engine import Engine
from wavefold.server.news import Ended
from wavefold.server.protocol import Context


class Model:
    """Serves `llm`. `engine` is there from `start` on.

    `adapter`: the name of what its answers go through; None: the model alone.
    """

    adapter: str | None = None

    def __init__(self, llm: LLM, context: Context):
        self.llm, self.context = llm, context
        self._adapters: dict[str, Entry] = {}
        """Those that were read, as they were found, the last used last."""
        self._users: Counter[str] = Counter()
        self.engine: Engine | None = None
        self.bound = Bound(llm.model, self.expert_bytes_read is not None)

    def start(
        self, max_queue: int, on_end: Callable[[Ended], None], turns: AbstractContextManager[object] | None = None
    ) -> None:
        """Starts the engine, in the event loop that runs. `turns`: held for each step, beside other models' steps."""
        self.engine = Engine(self.llm, max_queue, on_end, turns or contextlib.nullcontext())

    def through(self, adapter: str) -> Model:
        """Returns the model with an adapter that has been read."""
        self._adapters[adapter] = self._adapters.pop(adapter)  # the last is the one used last
        other = copy.copy(self)
        other.adapter, other.context = adapter, dataclasses.replace(self.context, names=(adapter,))
        return other

    def adopt(self, entry: Entry) -> None:
        """Notes an adapter that `llm` has read."""
        self._adapters[entry.name] = entry

    def has(self, adapter: str) -> bool:
        """True if the adapter of this name has been read."""
        return adapter in self._adapters

    def has_now(self, entry: Entry) -> bool:
        """True if this adapter has been read, as it is now."""
        return self._adapters.get(entry.name) == entry

    @property
    def adapter_names(self) -> list[str]:
        """Those that were read, the last used last."""
        return list(self._adapters)

    @property
    def adapter_bytes(self) -> int:
        """Bytes of its adapters."""
        return sum(entry.num_bytes for entry in self._adapters.values())

    @property
    def unused_bytes(self) -> int:
        """Bytes of those adapters that nobody uses."""
        return sum(entry.num_bytes for name, entry in self._adapters.items() if not self._users[name])

    def bytes_of(self, adapter: str) -> int:
        """Bytes of an adapter; 0 if it has not been read."""
        entry = self._adapters.get(adapter)
        return 0 if entry is None else entry.num_bytes

    def forget(self, adapter: str) -> None:
        """Takes an adapter away, if it is there; answers that go through it run to their ends."""
        if self._adapters.pop(adapter, None) is not None:
            self.llm.unload_adapter(adapter)

    def forget_oldest(self) -> bool:
        """Takes the adapter away that was used first of those that nobody uses. Returns False if there is none."""
        oldest = next((name for name in self._adapters if not self._users[name]), None)
        if oldest is not None:
            self.forget(oldest)
        return oldest is not None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Its adapter is not forgotten for another one meanwhile."""
        if self.adapter is not None:
            self._users[self.adapter] += 1
        try:
            yield
        finally:
            if self.adapter is not None:
                self._users[self.adapter] -= 1

    async def stop(self) -> None:
        """Ends all requests and the engine. What runs is told why."""
        if self.engine is not None:
            await self.engine.stop()

    @property
    def name(self) -> str:
        """The first of its names, which is shown."""
        return self.context.names[0]

    @property
    def running(self) -> Engine:
        """The engine of a model that was started."""
        assert self.engine is not None, "the application has not been started"
        return self.engine

    @property
    def counts(self) -> tuple[int, ...]:
        """Passes, guessed tokens, those that were right, and bytes of experts read, since it was loaded."""
        runner = self.llm.runner
        return runner.num_steps, runner.num_drafted, runner.num_accepted, self.expert_bytes_read or 0

    @property
    def expert_bytes_read(self) -> int | None:
        """Bytes of routed experts that were read from files; None where they are not streamed."""
        counts = getattr(self.llm.model.experts.store, "counts", None)
        return counts.bytes if counts else None
