"""The models of a folder behind one server: loaded when they are asked for, unloaded when others need their memory.

    lease(name) -> waits in its model's line -> moves (pool/turns.py) -> Leave: last answers, engine, memory
                                                                      -> Load: a thread opens it, its line goes on
    routed experts of streamed models share what is left (pool/slots.py)

All of this runs in the event loop; only opening and closing models take a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wavefold.engine.budget import OVERHEAD
from wavefold.experts.pressure import Pressure
from wavefold.pool.last_used import serve, write_last_used
from wavefold.pool.settings import ModelSettings
from wavefold.pool.turns import Leave, Load, Resident, TooLarge, Wanted, moves, next_look
from wavefold.server.adapter_room import AdapterRoom
from wavefold.server.engine import STOPPED
from wavefold.server.fair import FairLock
from wavefold.server.model import Model
from wavefold.server.models import Models
from wavefold.server.news import Ended
from wavefold.server.offer import Offer
from wavefold.server.places import Opener, Place, Room, close_model, give_back, not_loaded, reason_of
from wavefold.server.protocol import Refused
from wavefold.system import rss_bytes
from wavefold.system.sizes import gib

LOOK_S = 2.0
"""So often the folder, its settings and the shares of routed experts are looked at."""

log = logging.getLogger("wavefold.server")


class PooledModels(Models):
    """The models of `folder` in `memory` bytes of this process. `opener` opens them."""

    folder: Path
    picks = True

    def __init__(self, folder: Path, memory: int, opener: Opener, clock: Callable[[], float] = time.monotonic):
        """Raises ValueError for a folder without models, too little memory, and settings that are not allowed."""
        self.folder, self.memory, self._opener, self._clock = folder, memory, opener, clock
        self.offer = Offer(folder)
        room = memory - rss_bytes() - OVERHEAD
        if room <= 0:
            raise ValueError(f"memory = {gib(memory)} is not enough; expected more than {gib(memory - room)}, "
                             "which Python and libraries take before a model is loaded")  # fmt: skip
        self._places: dict[str, Place] = {}
        self.room = Room(self._places, room, Pressure(memory))
        self.adapters = AdapterRoom(
            self._places, self.room, self._leave, clock, lambda: self.offer.settings.max_wait_seconds
        )
        self._turns = FairLock()
        """Of the models' steps: each has all cores while it computes."""
        self._thread = ThreadPoolExecutor(1, "wavefold-load")
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self._serving: int | None = None
        """Says that this server has the folder."""
        self._is_stopping = False
        self.num_loads = 0

    # -- what is offered -----------------------------------------------------------------------------------------------

    @property
    def names(self) -> Sequence[str]:
        return self.offer.names

    @property
    def loaded(self) -> Sequence[Model]:
        return [place.model for place in self._places.values() if place.model is not None]

    @property
    def is_well(self) -> bool:
        return not self._is_stopping and all(model.running.is_alive for model in self.loaded)

    def resident(self, name: str) -> Resident | None:
        """Returns what is known of a model in memory, or on its way; None for others."""
        base, _, adapter = name.partition(":")
        place = self._places.get(base)
        if place is None or (adapter and (place.model is None or not place.model.adapters.has(name))):
            return None
        return place.resident

    @property
    def num_without_room(self) -> int:
        residents = [place.resident for place in self._places.values() if place.resident is not None]
        if any(one.is_coming or one.is_leaving for one in residents):  # one after another
            return self.adapters.num_waiting
        return self.adapters.num_waiting + sum(
            len(place.waiting) for place in self._places.values() if place.resident is None
        )

    def num_waiting_for(self, name: str) -> int:
        """Requests that wait for this model to be loaded."""
        place = self._places.get(name)
        return 0 if place is None else len(place.waiting)

    def bytes_of(self, name: str) -> int:
        """Bytes in memory of a model, or of an adapter alone."""
        place = self._places.get(name.partition(":")[0])
        if place is None or place.resident is None:
            return 0
        if ":" in name:
            return 0 if place.model is None else place.model.adapters.bytes_of(name)
        return place.resident.num_bytes

    def window(self, name: str) -> int | None:
        place = self._places.get(name.partition(":")[0])
        return None if place is None or place.model is None else place.model.context.window

    # -- use -----------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(self, name: str, left: asyncio.Future[None] | None = None) -> AsyncIterator[Model]:
        place = self._place(name)
        model = await self._asked(place, left)
        resident = place.resident
        assert resident is not None
        try:
            through = await self._through(place, model, name, left)
            with through.in_use():
                yield through
        finally:
            resident.num_users -= 1
            resident.last_used = self._clock()
            self._look()

    async def _through(self, place: Place, model: Model, name: str, left: asyncio.Future[None] | None) -> Model:
        """Returns the model as it is asked for: through an adapter if the name is one's. Raises Refused."""
        if ":" not in name:
            return model
        self._place(name)  # it may have been taken away while its base was waited for
        entry, was_there = self.offer.entries[name], model.adapters.has(name)
        while not model.adapters.has_now(entry):  # it may leave again between being read and being used
            self.offer.check_settled(name)
            await self.adapters.read(place, entry, left)
        self.adapters.last_used[name] = time.time()
        if not was_there:
            self._record()
        return model.through(name)

    async def _asked(self, place: Place, left: asyncio.Future[None] | None) -> Model:
        """Waits for a model, of which this request is a user then."""
        if self._is_stopping:
            raise Refused(503, STOPPED, "overloaded")
        if (model := place.taken()) is not None:
            return model
        self.offer.check_settled(place.entry.name)
        await self._known(place)
        if (model := place.taken()) is not None:  # it has come meanwhile
            return model
        if len(place.waiting) >= self._max_queue:
            raise Refused(
                429, f"{len(place.waiting)} requests wait for {place.entry.name}, as many as may", "rate_limit_exceeded"
            )
        future: asyncio.Future[Model] = asyncio.get_running_loop().create_future()
        waiting = self._clock(), future
        place.waiting.append(waiting)
        self._look()
        try:
            ways: list[asyncio.Future[Any]] = [future] if left is None else [future, left]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise Refused(400, "the client left before its model was there", "client_disconnected")
            return future.result()
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and place.resident is not None:
                place.resident.num_users -= 1
            raise
        finally:
            future.cancel()  # of one that nobody waits for any more
            with contextlib.suppress(ValueError):
                place.waiting.remove(waiting)
            self._look()

    def _place(self, name: str) -> Place:
        """Returns the place of a model, of an adapter that of its base. Raises Refused for one that is not offered."""
        base = self.offer.base_of(name)
        return self._places.setdefault(base.name, Place(base))

    async def _known(self, place: Place) -> None:
        """Finds out what a model needs, which reads its files' headers. Raises Refused for what cannot be used."""
        settings = self.offer.settings.of(place.entry.name)
        try:
            await asyncio.to_thread(self._opener.needs, place.entry, settings)
        except Exception as error:
            raise not_loaded(place, reason_of(place.entry, error)) from None

    async def load(self, name: str) -> None:
        """Loads a model, which stays as one that was just used."""
        async with self.lease(name):
            pass

    async def unload(self, name: str) -> None:
        """Unloads a model once it has come and its answers have ended. Nothing happens where it is not in memory.

        An adapter leaves its base at once; requests that go through it run to their ends.
        """
        if ":" in name:
            self.adapters.forget(self._place(name), name)
            self._record()
            return
        place = self._places.get(name) or self._place(name)
        while (resident := place.resident) is not None and resident.is_coming and place.task is not None:
            await asyncio.shield(place.task)
        self._leave(place)
        if resident is not None and place.task is not None:
            await asyncio.shield(place.task)
            if place.resident is resident:
                raise Refused(503, STOPPED, "overloaded")

    # -- coming and going ----------------------------------------------------------------------------------------------

    async def start(self, max_queue: int, on_end: Callable[[Ended], None]) -> None:
        self._max_queue, self._on_end = max_queue, on_end
        with contextlib.suppress(OSError):  # a folder in which nothing can be written
            write_last_used(self.folder, {}, {})  # what a killed server has noted as loaded is not
            self._serving = serve(self.folder)
        self._watch = asyncio.create_task(self._watching())
        for name in [name for name in self.names if self.offer.settings.of(name).preload and ":" not in name]:
            place, future = self._place(name), asyncio.get_running_loop().create_future()
            place.waiting.append((self._clock(), future))
            future.add_done_callback(functools.partial(self._preloaded, place))
        self._look()

    def _preloaded(self, place: Place, done: asyncio.Future[Model]) -> None:
        if done.cancelled() or done.exception() is not None:
            log.warning("%s could not be loaded at the beginning: %s", place.entry.name, done)
        elif place.resident is not None:
            place.resident.num_users -= 1

    async def stop(self) -> None:
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        for place in self._places.values():
            for _, future in place.waiting:
                if not future.done():
                    future.set_exception(Refused(503, STOPPED, "overloaded"))
            place.waiting.clear()
        tasks = [place.task for place in self._places.values() if place.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        for place in self._places.values():
            model, place.model = place.model, None
            if model is not None:
                await model.stop()
                await asyncio.get_running_loop().run_in_executor(self._thread, close_model, model)
                place.resident = None
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._record()
        if self._serving is not None:
            os.close(self._serving)
            self._serving = None

    def _look(self) -> None:
        """Does what is to be done now, and looks again when time alone may change it."""
        if self._is_stopping:
            return
        now, settings = self._clock(), self.offer.settings
        resident = [place.resident for place in self._places.values() if place.resident is not None]
        wanted = [one for one in (self._wanted(place) for place in self._places.values()) if one is not None]
        if wanted:
            self.adapters.forget_unused(max(one.whole for one in wanted) - self.room.free)
        for move in moves(resident, wanted, self.room.num_bytes, now, settings.max_wait_seconds, settings.idle_seconds):
            place = self._places[move.name]
            if isinstance(move, Leave):
                self._leave(place)
            elif isinstance(move, Load):
                self._come(place, move.num_bytes)
            elif isinstance(move, TooLarge):
                least = next(one.least for one in wanted if one.name == move.name)
                self._refuse(place, f"it needs {gib(least)} at least, and {gib(move.possible)} are not pinned")
        if self._timer is not None:
            self._timer.cancel()
        wait_s = next_look(resident, wanted, now, settings.max_wait_seconds, settings.idle_seconds)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _wanted(self, place: Place) -> Wanted | None:
        """Returns what a model needs for which somebody waits; None for others. Those are told why there is none."""
        while place.waiting and place.waiting[0][1].done():
            place.waiting.popleft()
        if not place.waiting or (place.resident is not None and not place.resident.is_leaving):
            return None
        try:
            needs = self._opener.needs(place.entry, self.offer.settings.of(place.entry.name))
        except Exception as error:
            self._refuse(place, reason_of(place.entry, error))
            return None
        return Wanted(place.entry.name, place.waiting[0][0], needs.whole, needs.least)

    def _refuse(self, place: Place, reason: str) -> None:
        """Tells all who wait for a model that it cannot be had."""
        while place.waiting:
            _, future = place.waiting.popleft()
            if not future.done():
                future.set_exception(not_loaded(place, reason))

    def _come(self, place: Place, num_bytes: int) -> None:
        settings = self.offer.settings.of(place.entry.name)
        place.resident = Resident(place.entry.name, num_bytes, is_pinned=settings.pin, is_coming=True)
        place.opened = place.entry
        self.room.share_out()  # others' routed experts give room before it takes it
        place.task = asyncio.create_task(self._loading(place, settings))

    async def _loading(self, place: Place, settings: ModelSettings) -> None:
        resident, began = place.resident, self._clock()
        assert resident is not None
        try:
            loop = asyncio.get_running_loop()
            opened = loop.run_in_executor(self._thread, self._opener.open, place.entry, settings, resident.num_bytes)
            model = await opened
        except Exception as error:
            place.resident = place.task = None
            self._refuse(place, reason_of(place.entry, error))
            self._look()
            return
        model.start(self._max_queue, self._on_end, self._turns)
        place.model, place.task = model, None
        if place.streamed is None and model.llm.budget is not None:
            resident.num_bytes = min(resident.num_bytes, model.llm.budget.used)  # others may have the rest
        self.num_loads += 1
        resident.is_coming, resident.load_seconds, resident.last_used = False, self._clock() - began, self._clock()
        while place.waiting:
            _, future = place.waiting.popleft()
            if not future.done():
                resident.num_users += 1
                future.set_result(model)
        self.room.share_out()
        self._record()
        self._look()

    def _leave(self, place: Place) -> None:
        resident = place.resident
        if resident is not None and not resident.is_leaving and not resident.is_coming:
            resident.is_leaving = True
            place.task = asyncio.create_task(self._leaving(place, resident))

    async def _leaving(self, place: Place, resident: Resident) -> None:
        while resident.num_users and not self._is_stopping:
            await asyncio.sleep(0.005)
        if self._is_stopping:
            return
        model, place.model = place.model, None
        assert model is not None
        self.gone = tuple(map(sum, zip(self.gone, model.counts, strict=True)))
        await model.stop()
        await asyncio.get_running_loop().run_in_executor(self._thread, close_model, model)
        del model
        self._record()  # when it was used last, which is forgotten with it
        place.resident = place.task = None
        await asyncio.get_running_loop().run_in_executor(self._thread, give_back)
        self.room.share_out()
        self._record()
        self._look()

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watching(self) -> None:
        """Reads the folder and its settings again, and shares routed experts' memory out.

        A model in memory that is gone, or another one now, leaves.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            await self.offer.read_again()
            for name, place in self._places.items():
                entry = self.offer.entries.get(name)
                if entry != place.opened:
                    self._leave(place)
                place.entry = entry or place.entry
                if place.resident is not None:
                    place.resident.is_pinned = self.offer.settings.of(name).pin
            self.adapters.forget_others(self.offer.entries)
            self.room.share_out()
            self._look()

    def _record(self) -> None:
        """Writes when each model and adapter was used last, and what is in memory, for `wavefold models`."""
        states = {name: "loaded" if place.model is not None else "" for name, place in self._places.items()}
        used = {name: time.time() - (self._clock() - place.resident.last_used) for name, place in self._places.items()
                if place.resident is not None and place.resident.last_used}  # fmt: skip
        with contextlib.suppress(OSError):  # some hundred bytes, where a model comes or goes
            write_last_used(self.folder, states | self.adapters.states, used | self.adapters.last_used)
