"""The models that a server offers, and which of them are in memory.

request -> name -> lease: its model, loaded if need be, which stays until the answer has ended
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from wavefold.server.model import Model
from wavefold.server.news import Ended


class Models(ABC):
    """What can be asked for by name. All methods are called in the event loop."""

    picks: bool
    """A request's name decides which model it gets. If False there is one model, which checks the name itself."""

    folder: Path | None = None
    """Whose models are offered, as they come and go; None for one model."""

    gone: tuple[int, ...] = (0, 0, 0, 0)
    """`Model.counts` of all that were unloaded, together: what is counted never falls."""

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """All names that are offered, the first is shown."""

    @property
    @abstractmethod
    def loaded(self) -> Sequence[Model]:
        """Those in memory."""

    @property
    @abstractmethod
    def is_well(self) -> bool:
        """True while all engines run."""

    @property
    def num_without_room(self) -> int:
        """Requests for models and adapters that have no room beside those in use."""
        return 0

    @abstractmethod
    def lease(self, name: str, left: asyncio.Future[None] | None = None) -> AbstractAsyncContextManager[Model]:
        """Waits for a model. Raises Refused for a name that is not offered, and for what cannot be loaded.

        `left`: is done when the client has left, who is not waited for then: Refused, too.
        """

    @abstractmethod
    def window(self, name: str) -> int | None:
        """Tokens of prompt and answer together, at most; None where it is not known."""

    @abstractmethod
    async def start(self, max_queue: int, on_end: Callable[[Ended], None]) -> None: ...

    @abstractmethod
    async def stop(self) -> None:
        """Ends all requests and engines."""


class OneModel(Models):
    """A model that was loaded before the server and stays as long."""

    picks = False

    def __init__(self, model: Model):
        self._model = model

    @property
    def names(self) -> Sequence[str]:
        return self._model.context.names

    @property
    def loaded(self) -> Sequence[Model]:
        return (self._model,)

    @property
    def is_well(self) -> bool:
        return self._model.running.is_alive

    @contextlib.asynccontextmanager
    async def lease(self, name: str, left: asyncio.Future[None] | None = None) -> AsyncIterator[Model]:
        yield self._model

    def window(self, name: str) -> int | None:
        return self._model.context.window

    async def start(self, max_queue: int, on_end: Callable[[Ended], None]) -> None:
        self._model.start(max_queue, on_end)

    async def stop(self) -> None:
        await self._model.stop()
