"""A model of a pool: where it is, and who waits for it; and the memory that streamed models share."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from wavefold.engine.budget import Needs
from wavefold.experts.pressure import Pressure
from wavefold.experts.streamed import LEAST_SLOTS, StreamedExperts
from wavefold.ops.native.heap import trim_of_libc
from wavefold.pool.folder import Entry
from wavefold.pool.settings import ModelSettings
from wavefold.pool.slots import Streams, shared_out
from wavefold.pool.turns import Resident
from wavefold.server.model import Model
from wavefold.server.protocol import Refused

log = logging.getLogger("wavefold.server")


class Opener(Protocol):
    """How a model is opened: by the flags of the server and the settings of the model."""

    def needs(self, entry: Entry, settings: ModelSettings) -> Needs:
        """Returns the bytes that it needs. Raises ValueError for what cannot be used."""

    def open(self, entry: Entry, settings: ModelSettings, num_bytes: int) -> Model:
        """Loads it with so many bytes, in any thread. Raises ValueError."""


@dataclass
class Place:
    """A model that was asked for: where it is, and who waits for it."""

    entry: Entry
    resident: Resident | None = None
    """None: it is not in memory."""
    model: Model | None = None
    waiting: deque[tuple[float, asyncio.Future[Model]]] = field(default_factory=deque)
    opened: Entry | None = None
    """As it was when it was loaded last."""
    task: asyncio.Task[None] | None = None
    """Loads or unloads it."""
    asked_before: int = 0
    use: float = 0.0
    """Experts asked for since it was loaded; and how many of late."""

    def taken(self) -> Model | None:
        """Returns the model, which has a user more then; None where no request can use it now."""
        if self.model is None or self.resident is None or self.resident.is_leaving:
            return None
        self.resident.num_users += 1
        return self.model

    @property
    def streamed(self) -> StreamedExperts | None:
        """The store of a model whose routed experts are streamed; None for others."""
        if self.model is None or self.model.llm.budget is None:
            return None
        store = self.model.llm.model.experts.store
        return store if isinstance(store, StreamedExperts) else None

    @property
    def spare_bytes(self) -> int:
        """Bytes of its share that others may take: those of slots beyond the fewest."""
        store = self.streamed
        return 0 if store is None else max(0, self.slot_bytes - LEAST_SLOTS * store.slot_bytes)

    @property
    def slot_bytes(self) -> int:
        """Bytes of its share that its routed experts may have."""
        budget = self.model.llm.budget if self.model is not None else None
        if budget is None or self.resident is None:
            return 0
        return max(0, self.resident.num_bytes - budget.base - budget.dense - budget.pool - budget.passes)


class Room:
    """The bytes that all models together may have. `places` are those of the pool, as they come and go."""

    def __init__(self, places: Mapping[str, Place], num_bytes: int, pressure: Pressure):
        self.num_bytes, self._places, self._pressure = num_bytes, places, pressure

    @property
    def free(self) -> int:
        """Bytes that no model and no adapter has."""
        return self.num_bytes - sum(
            place.resident.all_bytes for place in self._places.values() if place.resident is not None
        )

    @property
    def spare(self) -> int:
        """Bytes that adapters may take: those that are free, and slots beyond the fewest."""
        return self.free + sum(place.spare_bytes for place in self._places.values())

    def share_out(self) -> None:
        """Gives the stores of streamed models the memory that is left for them, by how much each was asked of late."""
        streamed: dict[str, tuple[StreamedExperts, Streams]] = {}
        left = self.free
        for name, place in self._places.items():
            store = place.streamed
            if store is None:
                continue
            asked = int(store.counts.asked.sum())
            place.use, place.asked_before = place.use / 2 + asked - place.asked_before, asked
            all_of_it = store.slots.num_slots * store.slot_bytes
            streamed[name] = store, Streams(place.use, LEAST_SLOTS * store.slot_bytes, all_of_it)
            left += place.slot_bytes
        if streamed:
            allowed = self._pressure.allowed(sum(store.resident_bytes for store, _ in streamed.values()))
            shares = shared_out(min(left, allowed), {name: streams for name, (_, streams) in streamed.items()})
            for name, (store, _) in streamed.items():
                store.fit(shares[name])


def not_loaded(place: Place, reason: str) -> Refused:
    """Returns the refusal of a request whose model cannot be had."""
    return Refused(503, f"model {place.entry.name!r} cannot be loaded: {reason}", "model_not_loaded", "model")


def reason_of(entry: Entry, error: Exception) -> str:
    """Why a model or an adapter cannot be loaded. What is no fault of its files is in the log too."""
    if isinstance(error, ValueError):
        return str(error)
    log.error("%s could not be loaded", entry.name, exc_info=error)
    return f"{type(error).__name__}: {error}"


def close_model(model: Model) -> None:
    """Closes a model, whatever happens."""
    try:
        model.llm.close()
    except Exception:  # its memory is given back all the same
        log.exception("%s could not be closed", model.name)


def give_back() -> None:
    """Gives memory that nobody refers to back to the system."""
    gc.collect()
    trim = trim_of_libc()
    if trim is not None:
        trim()
