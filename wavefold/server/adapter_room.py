"""Adapters of a pool's models: read one at a time, in room that others give.

    read(place, entry) -> is there room, or can there be?   no: Refused; not now: it waits, as a model does
                       -> unused adapters leave, those used longest ago first; then models that nobody uses
                       -> a thread reads it

What a model's adapters take is counted from what it has (`ModelAdapters.num_bytes`), not added up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping

from wavefold.pool.folder import Entry
from wavefold.pool.turns import Resident, first_to_leave, is_idle
from wavefold.server.model import Model
from wavefold.server.places import Place, Room, reason_of
from wavefold.server.protocol import Refused
from wavefold.system.sizes import size_text

POLL_S = 0.05
"""Of a wait until others have left, or are not in use."""


class AdapterRoom:
    """`leave` lets a model leave. `max_wait`: seconds until a request is refused that waits for others in use."""

    def __init__(
        self, places: Mapping[str, Place], room: Room, leave: Callable[[Place], None], clock: Callable[[], float],
        max_wait: Callable[[], float],
    ):  # fmt: skip
        self._places, self._room, self._leave, self._clock, self._max_wait = places, room, leave, clock, max_wait
        self._reading = asyncio.Lock()
        """Held while an adapter is read, and not while one waits for room: a smaller one may come before it."""
        self.num_waiting = 0
        """Requests for adapters that have no room yet."""
        self.last_used: dict[str, float] = {}
        """When each was used last, in seconds since 1970, those that have left too."""

    async def read(self, place: Place, entry: Entry, left: asyncio.Future[None] | None = None) -> None:
        """Reads an adapter of a model in memory, unless it is there as it is now. Raises Refused.

        `left` is done once the client has left. That, or a cancellation, ends the wait; a reading goes on.
        """
        ends, waits = self._clock() + self._max_wait(), False
        try:
            while (missing := await self._tried(place, entry)) > 0:
                if left is not None and left.done():
                    raise Refused(400, "the client left before its adapter was there", "client_disconnected")
                if self._clock() > ends:
                    raise _refused(entry, f"{size_text(missing)} of what it needs are in use; try again", "overloaded")
                self.num_waiting += not waits
                waits = True
                await asyncio.sleep(POLL_S)
        finally:
            self.num_waiting -= waits

    async def _tried(self, place: Place, entry: Entry) -> int:
        """Reads an adapter if there is room. Returns the bytes that are missing, 0 once it is there."""
        trying = asyncio.ensure_future(self._try(place, entry))
        trying.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask for it
        return await asyncio.shield(trying)

    async def _try(self, place: Place, entry: Entry) -> int:
        async with self._reading:
            model, resident = place.model, place.resident
            if model is None or resident is None:  # all who asked for it have left, and it has, too
                raise _refused(entry, f"{place.entry.name} has left", "overloaded")
            if model.adapters.has_now(entry):
                return 0
            self._check_size(place, entry)
            while (missing := entry.num_bytes - self._room.spare) > 0:
                if not self._give(missing):
                    return missing
            with self._counted(place, entry.num_bytes):
                try:
                    await asyncio.to_thread(model.llm.load_adapter, entry.name, entry.path)
                except Exception as error:
                    raise _refused(entry, reason_of(entry, error), "model_not_loaded") from None
                model.adapters.adopt(entry)
            return 0

    @contextlib.contextmanager
    def _counted(self, place: Place, num_bytes: int) -> Iterator[None]:
        """Counts bytes for the adapter that is read; then those of all that the model has."""
        resident, model = place.resident, place.model
        assert resident is not None and model is not None
        resident.adapter_bytes += num_bytes
        self._room.share_out()  # others' routed experts give room before it takes it
        try:
            yield
        finally:
            resident.adapter_bytes = model.adapters.num_bytes
            self._room.share_out()

    def _check_size(self, place: Place, entry: Entry) -> None:
        """Raises Refused for an adapter that has no room beside its base and pinned models."""
        stays = [(resident, other) for other in self._places.values() if (resident := other.resident) is not None
                 and (other is place or resident.is_pinned)]  # fmt: skip
        most = self._room.num_bytes - sum(resident.num_bytes - other.spare_bytes for resident, other in stays)
        if entry.num_bytes > most:
            room = f"it needs {size_text(entry.num_bytes)}, and {size_text(max(0, most))} are not pinned or its base's"
            raise _refused(entry, f"{room}; give the server more --memory", "model_not_loaded")

    def _give(self, missing: int) -> bool:
        """Lets what nobody uses leave, where that is enough. Returns True where that has made room at once."""
        coming = sum(one.all_bytes for one in self._residents if one.is_leaving)
        idle = [one for one in self._residents if is_idle(one)]
        unused = sum(model.adapters.unused_bytes for resident, model in self._loaded if not resident.is_leaving)
        if coming >= missing or coming + unused + sum(one.num_bytes for one in idle) < missing:
            return False
        if coming + unused >= missing:
            return self.forget_unused(1)
        if (first := first_to_leave(idle, self._clock())) is not None:
            self._leave(self._places[first.name])
        return False

    @property
    def states(self) -> dict[str, str]:
        """Of those that were used: "loaded", or an empty text."""
        return {name: "loaded" if any(model.adapters.has(name) for _, model in self._loaded) else ""
                for name in self.last_used}  # fmt: skip

    @property
    def _residents(self) -> Iterator[Resident]:
        return (place.resident for place in self._places.values() if place.resident is not None)

    @property
    def _loaded(self) -> Iterator[tuple[Resident, Model]]:
        for place in self._places.values():
            if place.resident is not None and place.model is not None:
                yield place.resident, place.model

    def forget_unused(self, num_bytes: int) -> bool:
        """Lets adapters leave that nobody uses, until so many bytes more are free. Returns True if one has left."""
        target, forgot = self._room.free + num_bytes, False
        for resident, model in sorted(self._loaded, key=lambda one: one[0].last_used):
            while self._room.free < target and model.adapters.forget_oldest():
                resident.adapter_bytes, forgot = model.adapters.num_bytes, True
        return forgot

    def forget(self, place: Place, name: str) -> None:
        """Takes an adapter away; requests that go through it run to their ends."""
        if place.model is not None and place.resident is not None:
            place.model.adapters.forget(name)
            place.resident.adapter_bytes = place.model.adapters.num_bytes

    def forget_others(self, entries: Mapping[str, Entry]) -> None:
        """Takes all adapters away that are not among these entries, as they are now."""
        for place in self._places.values():
            for name in () if place.model is None else place.model.adapters.not_in(entries):
                self.forget(place, name)


def _refused(entry: Entry, reason: str, code: str) -> Refused:
    return Refused(503, f"adapter {entry.name!r} cannot be loaded: {reason}", code, "model")
