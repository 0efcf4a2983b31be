"""Lines of the queue through a coroutine that answers them, a few at a time, while nobody else needs the machine.

    worker = Worker(folder, answer, lambda model: 8, may_go_on=lambda: nobody_asks)
    await worker.run()          until worker.stop()

An answer of 200 is a line's result, and so is a refusal that is the line's own fault (4xx). What is the server's fault
is tried again: without end where it has no room or is ending (503, 429), `MOST_TRIES` times where it fails (500) and
where the line's model cannot be loaded, which would keep all other lines waiting. A
disk that is full pauses the work: results that came wait in memory, no line is begun, and it goes on by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from wavefold.atomic import holding
from wavefold.jobs import board
from wavefold.jobs.desk import Desk, Outcome, Taken
from wavefold.jobs.outputs import error_of, usage_of
from wavefold.jobs.queue import Queue
from wavefold.jobs.schema import NotNow, check_whole

POLL_S, BUSY_POLL_S = 1.0, 0.05
"""How often other processes' changes are looked for; and whether nobody asks any more."""
RETRY_S, MOST_RETRY_S = 0.5, 30.0
"""Until the next try after one that had no room, doubled each time."""
MOST_TRIES = 3
MOST_TAKEN_BACK = 3
"""So often a line gives way to a client of another model; after that it goes on to its end."""
LOCK_S = 2.0
"""For a process before this one to end."""
NOT_NOW = frozenset((408, 409, 425, 429, 503))
"""Statuses of a server that could answer later."""
LASTING = "model_not_loaded"
"""The code of an error that lasts, whatever its status: a model whose files are damaged, or that has no room."""

log = logging.getLogger("wavefold.jobs")
Result = TypeVar("Result")


def check_queue(folder: Path) -> None:
    """Makes the queue if need be. Raises ValueError where it is damaged, or another process works on it."""
    with contextlib.suppress(NotNow):  # a worker waits until a full disk has room
        with Queue(folder, create=True) as queue:
            check_whole(queue.connection, folder)
        with holding(folder / board.LOCK):
            pass


class Answered(NamedTuple):
    """`body`: of JSON."""

    status: int
    body: Any
    request_id: str = ""


Answer = Callable[[str, str], Awaitable[Answered]]
"""Answers a path and a body in JSON."""


class Worker:
    """Works on the queue in `folder`. `may_go_on`: False while no line may be begun. `gives_way`: True where those that
    are under way must end, since somebody waits for their model to leave; they are left as if they had not been begun.

    `width`: how many lines of a model are under way, at most, or may be begun where none is (None). `paused`: why it
    does not go on; None where it does. `refused`: what lines are told that have to wait; None where they need not.
    `offer`: what it can be asked for (board.py).
    """

    def __init__(
        self, folder: Path, answer: Answer, width: Callable[[str | None], int],
        may_go_on: Callable[[], bool] = lambda: True, gives_way: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time, offer: board.Offer = None,
    ):  # fmt: skip
        self.folder, self._answer, self._width, self._clock = folder, answer, width, clock
        self._may_go_on, self._gives_way = may_go_on, gives_way
        self._offer = offer
        self.place: tuple[int, int] | None = None
        """Of the queue that is worked on (`place_of`); None before it is open."""
        self.paused: str | None = None
        self.refused: str | None = None
        self._tasks: dict[asyncio.Task[Answered], Taken] = {}
        self._outcomes: list[Outcome] = []
        self._returned: dict[Taken, bool] = {}
        self._given_way: Counter[int] = Counter()
        """How often lines were taken back, by their numbers."""
        self._seconds: dict[int, float] = {}
        self._thread = ThreadPoolExecutor(1, "wavefold-jobs")
        self._is_stopping = False
        self._wakes = asyncio.Event()
        self._counted_at = time.monotonic()
        self._version, self._failures, self._next_try = -1, 0, 0.0

    @property
    def num_under_way(self) -> int:
        return len(self._tasks)

    def stop(self) -> None:
        """Ends the run soon: lines under way are left as if they had not been begun."""
        self._is_stopping = True
        self._wakes.set()

    def wake(self) -> None:
        """Looks at the queue now: something was added or cancelled."""
        self._wakes.set()

    async def run(self) -> None:
        """Works until `stop`. Raises ValueError where another process works on the queue, `Damaged` and NoQueue."""
        try:
            with await self._lock():
                desk = await self._opened()
                if desk is not None:
                    try:
                        await self._work(desk)
                    finally:
                        await self._leave(desk)
        finally:
            self._thread.shutdown(wait=True)

    async def _lock(self) -> contextlib.ExitStack:
        """Returns the lock of whoever works, which is let go of when the stack is left."""
        ends = time.monotonic() + LOCK_S
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = contextlib.ExitStack()
        while True:
            try:
                lock.enter_context(holding(self.folder / board.LOCK))
                return lock
            except ValueError:
                if time.monotonic() > ends:
                    raise
                await asyncio.sleep(0.1)

    async def _opened(self) -> Desk | None:
        """Returns the desk, once there is room for it; None if it was stopped before."""

        def opened() -> Desk:
            queue = Queue(self.folder, create=True)
            try:
                desk = Desk(queue)
                desk.begin()
            except BaseException:
                queue.close()
                raise
            return desk

        while not self._is_stopping:
            try:
                desk = await self._in_thread(opened)
            except NotNow as error:
                self._pause(error)
                await self._rest(self._failed_again())
            else:
                self.place = desk.queue.place
                self._go_on()
                self._say()
                return desk
        return None

    async def _work(self, desk: Desk) -> None:
        while not self._is_stopping:
            if self._gives_way() and self._may_be_taken_back():
                await self._take_back()
            self._collect()
            try:
                await self._turn(desk)
            except NotNow as error:
                self._pause(error)
                self._next_try = time.monotonic() + self._failed_again()
            else:
                if self.paused is not None:
                    self._go_on()
            waits = self._next_try - time.monotonic()
            usual = POLL_S if self._may_go_on() else BUSY_POLL_S
            await self._rest(min(waits, POLL_S) if waits > 0 else usual)

    async def _turn(self, desk: Desk) -> None:
        """Records what has come, and begins new lines."""
        is_time = time.monotonic() >= self._next_try
        if not is_time and self.paused is not None:
            return
        room = self._room() if is_time and self._may_go_on() else 0
        outcomes, returned, seconds = list(self._outcomes), dict(self._returned), dict(self._seconds)
        batches, num_under_way, now = {line.batch for line in self._tasks.values()}, len(self._tasks), self._clock()

        def changes() -> tuple[list[Taken], set[int]]:
            desk.queue.check_place()
            version = desk.version
            ended = desk.ended(batches) if version != self._version else set()
            has_work = outcomes or returned or (room and desk.has_lines(now))
            taken = desk.turn(outcomes, returned, room, num_under_way, seconds, now) if has_work else []
            self._version = version  # once all is written: else the next turn looks again
            return taken, ended

        taken, ended = await self._in_thread(changes)
        if taken or outcomes or returned:
            self._outcomes, self._returned, self._seconds = [], {}, {}
        if room and not taken and not self._tasks:  # no line has to wait
            self._note_refusal(None)
        for line in taken:
            self._tasks[asyncio.ensure_future(self._answer(line.path, line.body))] = line
        for task, line in list(self._tasks.items()):
            if line.batch in ended:
                del self._tasks[task]
                task.cancel()

    def _room(self) -> int:
        """Returns how many lines may be begun. All that are under way are of one model."""
        model = next((line.model for line in self._tasks.values()), None)
        return max(0, self._width(model) - len(self._tasks))

    def _collect(self) -> None:
        """Takes what has come of lines that are under way."""
        now = time.monotonic()
        for line in self._tasks.values():
            spent = (now - self._counted_at) / len(self._tasks)
            self._seconds[line.group] = self._seconds.get(line.group, 0.0) + spent
        self._counted_at = now
        for task in [task for task in self._tasks if task.done()]:
            self._judge(self._tasks.pop(task), task)

    def _judge(self, line: Taken, task: asyncio.Task[Answered]) -> None:
        if task.cancelled():
            self._returned[line] = False
            return
        if (error := task.exception()) is not None:
            log.error("line %d of %s failed", line.place, line.batch_id, exc_info=error)
            body = {"error": {"message": type(error).__name__, "type": "server_error", "param": None, "code": None}}
            answered = Answered(500, body)
        else:
            answered = task.result()
        if answered.status in NOT_NOW and _code_of(answered.body) != LASTING:
            self._returned[line] = False
            self._next_try = time.monotonic() + self._failed_again()
            self._note_refusal(f"model {line.model} cannot answer for now: {_message_of(answered)}")
        elif answered.status >= 500 and line.failures + 1 < MOST_TRIES:
            self._returned[line] = True
        else:
            self._failures = 0
            self._note_refusal(None)
            usage = usage_of(answered.body)
            self._outcomes.append(Outcome(line, answered.status, answered.request_id, answered.body, usage))

    async def _leave(self, desk: Desk) -> None:
        """Ends what is under way, and writes what has come."""
        await self._take_back()
        try:
            await self._in_thread(lambda: desk.turn(self._outcomes, self._returned, seconds=self._seconds))
        except NotNow as error:  # the next worker takes the lines back
            log.warning("results of %d lines were lost: %s", len(self._outcomes), error)
        finally:
            desk.queue.close()

    def _may_be_taken_back(self) -> bool:
        """False once a line under way was taken back so often: it would never end where others come again and again."""
        lines = [line.number for line in self._tasks.values()]
        if not lines or max(self._given_way[number] for number in lines) >= MOST_TAKEN_BACK:
            return False
        self._given_way.update(lines)
        return True

    async def _take_back(self) -> None:
        """Ends what is under way."""
        self._collect()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._collect()

    async def _rest(self, seconds: float) -> None:
        """Waits until a line has been answered or somebody wakes it, and so long at most."""
        waking = asyncio.ensure_future(self._wakes.wait())
        try:
            await asyncio.wait([waking, *self._tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
        self._wakes.clear()

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _failed_again(self) -> float:
        self._failures += 1
        return min(MOST_RETRY_S, RETRY_S * 2 ** min(self._failures - 1, 10))

    def _pause(self, error: NotNow) -> None:
        if self.paused is None:
            log.warning("paused: %s", error)
            self.paused = error.strerror or str(error)
            self._say()

    def _go_on(self) -> None:
        self._failures, self._next_try = 0, 0.0
        if self.paused is not None:
            log.warning("goes on after: %s", self.paused)
            self.paused = None
            self._say()

    def _note_refusal(self, message: str | None) -> None:
        if message != self.refused:
            self.refused = message
            self._say()

    def _say(self) -> None:
        board.say(self.folder, self.paused or self.refused, self._offer)


def _code_of(body: Any) -> Any:
    """The code of an error; None of what is none."""
    return error_of(body).get("code")


def _message_of(answered: Answered) -> str:
    return str(error_of(answered.body).get("message") or f"status {answered.status}")
