"""What the parts of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from wavefold.llm import LLM
from wavefold.server.bodies import Bodies
from wavefold.server.bound import Bound
from wavefold.server.engine import Engine
from wavefold.server.metrics import Metrics
from wavefold.server.protocol import Context, Protocol, Refused
from wavefold.server.shapes import Shapes

if TYPE_CHECKING:
    from wavefold.server.jobs import Jobs

LARGE = 64 * 1024
"""A body of more bytes may take long to read: it does not stand before small ones."""
MOST_LONG = 32

Result = TypeVar("Result")


@dataclass
class Served:
    """A model that is served, and all that its requests share. `engine` is there while the application runs."""

    llm: LLM
    context: Context
    protocols: Mapping[str, Protocol]
    bodies: Bodies
    max_queue: int
    metrics: Metrics = field(init=False)
    shapes: Shapes = field(init=False)
    bound: Bound = field(init=False)
    engine: Engine | None = None
    jobs: Jobs | None = None
    """The queue, where the server has one."""
    is_draining: bool = False
    """No new request is taken."""
    num_long: int = 0
    """Functions that are called, or wait, in the thread for long ones."""
    small: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "wavefold-small"))
    large: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "wavefold-large"))

    def __post_init__(self) -> None:
        self.shapes, self.metrics = Shapes(self.protocols), Metrics(self.values)
        self.bound = Bound(self.llm.model, self.expert_bytes_read is not None)

    def start(self) -> None:
        """Starts the engine, in the event loop that runs."""
        self.engine = Engine(self.llm, self.max_queue, self.metrics.count_end)

    async def stop(self) -> None:
        """Ends all requests and the engine. What runs is told why."""
        self.is_draining = True
        if self.jobs is not None:
            await self.jobs.stop()
        if self.engine is not None:
            await self.engine.stop()
        self.small.shutdown(wait=False, cancel_futures=True)
        self.large.shutdown(wait=False, cancel_futures=True)

    @property
    def running(self) -> Engine:
        """The engine, of an application that runs."""
        assert self.engine is not None, "the application has not been started"
        return self.engine

    @property
    def expert_bytes_read(self) -> int | None:
        """Bytes of routed experts that were read from files; None where they are not streamed."""
        counts = getattr(self.llm.model.experts.store, "counts", None)
        return counts.bytes if counts else None

    async def in_thread(self, is_long: bool, function: Callable[[], Result]) -> Result:
        """Calls a function beside the event loop; long ones one after another. Raises Refused where many wait."""
        if self.num_long >= MOST_LONG and is_long:
            raise Refused(503, f"{self.num_long} long requests wait to be read; try again", "overloaded")
        self.num_long += is_long
        try:
            return await asyncio.get_running_loop().run_in_executor(self.large if is_long else self.small, function)
        finally:
            self.num_long -= is_long

    def values(self) -> dict[str, tuple[float, str]]:
        """What the engine counts, for /metrics."""
        engine, runner = self.running, self.llm.runner
        return {
            "wavefold_requests_running": (engine.num_running, "Requests that run."),
            "wavefold_requests_waiting": (engine.num_waiting, "Requests that wait for a place."),
            "wavefold_engine_steps_total": (runner.num_steps, "Passes of the model."),
            "wavefold_draft_tokens_total": (runner.num_drafted, "Guessed tokens that were verified."),
            "wavefold_accepted_tokens_total": (runner.num_accepted, "Guessed tokens that were right."),
            "wavefold_expert_bytes_read_total": (
                self.expert_bytes_read or 0, "Bytes of routed experts that were read from files."
            ),
            "wavefold_body_bytes": (self.bodies.num_bytes, "Bytes of bodies that are in memory."),
        }  # fmt: skip
