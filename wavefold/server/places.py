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


def share_slots(places: Mapping[str, Place], room: int, pressure: Pressure) -> None:
    """Gives the stores of streamed models the memory that is left for them, by how much each was asked of late."""
    streamed: dict[str, tuple[StreamedExperts, Streams]] = {}
    left = room - sum(place.resident.num_bytes for place in places.values() if place.resident is not None)
    for name, place in places.items():
        store = place.model.llm.model.experts.store if place.model is not None else None
        if place.model is None or place.model.llm.budget is None or not isinstance(store, StreamedExperts):
            continue
        asked = int(store.counts.asked.sum())
        place.use, place.asked_before = place.use / 2 + asked - place.asked_before, asked
        all_of_it = store.slots.num_slots * store.slot_bytes
        streamed[name] = store, Streams(place.use, LEAST_SLOTS * store.slot_bytes, all_of_it)
        budget = place.model.llm.budget
        left += max(0, (place.resident.num_bytes if place.resident else 0) - budget.dense - budget.pool - budget.passes)
    if streamed:
        allowed = pressure.allowed(sum(store.resident_bytes for store, _ in streamed.values()))
        shares = shared_out(min(left, allowed), {name: streams for name, (_, streams) in streamed.items()})
        for name, (store, _) in streamed.items():
            store.fit(shares[name])


def not_loaded(place: Place, reason: str) -> Refused:
    """Returns the refusal of a request whose model cannot be had."""
    return Refused(503, f"model {place.entry.name!r} cannot be loaded: {reason}", "model_not_loaded", "model")


def reason_of(place: Place, error: Exception) -> str:
    """Why a model cannot be loaded. What is no fault of its files is in the log too."""
    if isinstance(error, ValueError):
        return str(error)
    log.error("%s could not be loaded", place.entry.name, exc_info=error)
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
