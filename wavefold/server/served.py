"""What the parts of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from wavefold.server.bodies import Bodies
from wavefold.server.metrics import Metrics
from wavefold.server.models import Models
from wavefold.server.protocol import Protocol, Refused
from wavefold.server.shapes import Shapes

if TYPE_CHECKING:
    from wavefold.server.jobs import Jobs

LARGE = 64 * 1024
"""A body of more bytes may take long to read: it does not stand before small ones."""
MOST_LONG = 32

Result = TypeVar("Result")


@dataclass
class Served:
    """Models that are served, and all that their requests share. Engines are there while the application runs."""

    models: Models
    protocols: Mapping[str, Protocol]
    bodies: Bodies
    max_queue: int
    metrics: Metrics = field(init=False)
    shapes: Shapes = field(init=False)
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

    async def start(self) -> None:
        """Starts what runs requests, in the event loop that runs."""
        await self.models.start(self.max_queue, self.metrics.count_end)

    async def stop(self) -> None:
        """Ends all requests and the engines. What runs is told why."""
        self.is_draining = True
        self.bodies.end()
        if self.jobs is not None:
            await self.jobs.stop()
        await self.models.stop()
        self.small.shutdown(wait=False, cancel_futures=True)
        self.large.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, is_long: bool, function: Callable[[], Result]) -> Result:
        """Calls a function beside the event loop; long ones one after another. Raises Refused where many wait."""
        if self.num_long >= MOST_LONG and is_long:
            raise Refused(503, f"{self.num_long} long requests wait to be read; try again", "overloaded")
        self.num_long += is_long
        try:
            return await asyncio.get_running_loop().run_in_executor(self.large if is_long else self.small, function)
        finally:
            self.num_long -= is_long

    @property
    def num_running(self) -> int:
        """Requests of all models that run."""
        return sum(model.running.num_running for model in self.models.loaded)

    @property
    def num_waiting(self) -> int:
        """Requests of all models in memory that wait for a place."""
        return sum(model.running.num_waiting for model in self.models.loaded)

    def values(self) -> dict[str, tuple[float, str]]:
        """What the engines count, for /metrics."""
        models = self.models
        steps, drafted, accepted, bytes_read = map(
            sum, zip(models.gone, *(one.counts for one in models.loaded), strict=True)
        )
        return {
            "wavefold_requests_running": (self.num_running, "Requests that run."),
            "wavefold_requests_waiting": (self.num_waiting, "Requests that wait for a place."),
            "wavefold_engine_steps_total": (steps, "Passes of the model."),
            "wavefold_draft_tokens_total": (drafted, "Guessed tokens that were verified."),
            "wavefold_accepted_tokens_total": (accepted, "Guessed tokens that were right."),
            "wavefold_expert_bytes_read_total": (bytes_read, "Bytes of routed experts that were read."),
            "wavefold_body_bytes": (self.bodies.num_bytes, "Bytes of bodies that are in memory."),
        }  # fmt: skip
