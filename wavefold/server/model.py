"""A model in memory that answers over HTTP: its LLM, what protocols know of it, the engine that runs its requests."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

from wavefold.engine import Sampling
from wavefold.llm import LLM
from wavefold.server.bound import Bound
from wavefold.server.engine import Engine
from wavefold.server.model_adapters import ModelAdapters
from wavefold.server.news import Ended
from wavefold.server.protocol import Context


class Model:
    """Serves `llm`. `engine` is there from `start` on.

    `adapter`: the name of what its answers go through; None: the model alone.
    """

    adapter: str | None = None

    def __init__(self, llm: LLM, context: Context):
        self.llm, self.context = llm, context
        self.adapters = ModelAdapters(llm)
        self.engine: Engine | None = None
        self.bound = Bound(llm.model, self.expert_bytes_read is not None)

    def start(
        self, max_queue: int, on_end: Callable[[Ended], None], turns: AbstractContextManager[object] | None = None
    ) -> None:
        """Starts the engine, in the event loop that runs. `turns`: held for each step, beside other models' steps."""
        self.engine = Engine(self.llm, max_queue, on_end, turns or contextlib.nullcontext())

    def through(self, adapter: str) -> Model:
        """Returns the model with an adapter that has been read."""
        self.adapters.touch(adapter)
        other = copy.copy(self)
        eos_ids = self.llm.resolved(Sampling(), adapter).eos_ids
        other.adapter, other.context = adapter, dataclasses.replace(self.context, names=(adapter,), eos_ids=eos_ids)
        return other

    def in_use(self) -> AbstractContextManager[None]:
        """Its adapter is not forgotten for another one meanwhile."""
        return contextlib.nullcontext() if self.adapter is None else self.adapters.in_use(self.adapter)

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
