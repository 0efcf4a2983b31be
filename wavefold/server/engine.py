"""The bridge from the engine to an event loop: one thread steps the runner for all requests.

    loop     submit, abort ---------> inbox                                             Reader.news
                                        |                                                   ^
    thread                       admit, abort -> Runner.step -> what is new -> Outbox -> one call into the loop

A request that the runner has no place for waits in order of arrival. The first of them that needs a larger pool than
there is waits until nothing runs, and all others behind it: then the pool grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of, num_read
from wavefold.engine.runner import Runner
from wavefold.llm import LLM
from wavefold.server.news import Ended, News, Reader
from wavefold.server.outbox import Batch, Outbox
from wavefold.server.rate import Rate

AHEAD = 4
"""Requests beyond those that run that the scheduler has to choose from."""
TRIES = 2
"""Of a step that raises, before all requests end with an error."""

STOPPED = "the server is shutting down"

log = logging.getLogger("wavefold.server")


class QueueFull(Exception):
    """As many requests wait as may. `retry_after`: seconds until there may be a place."""

    def __init__(self, num_open: int, retry_after: int):
        super().__init__(f"{num_open} requests run or wait, as many as may; try again in {retry_after} s")
        self.retry_after = retry_after


class Stopped(Exception):
    """The server ends, or its engine has ended: no request is taken."""


class Engine:
    """An `LLM` for one event loop. Make it in the loop, where all methods are called but those with an underscore.

    At most `max_queue` requests wait, beside those that run. `on_end` is told of every end, in the loop. `turns` is
    held for each step: models of one process take turns by it.
    """

    def __init__(
        self, llm: LLM, max_queue: int, on_end: Callable[[Ended], None] = lambda ended: None,
        turns: AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008  holds nothing
    ):  # fmt: skip
        self.llm, self.max_queue, self._on_end, self._turns = llm, max_queue, on_end, turns
        self.width = llm.runner.max_running
        self._loop = asyncio.get_running_loop()
        self._open: set[Reader] = set()
        self._mean_s = 1.0
        """Of the time that answers take, the more recent ones more."""
        self.rate, self._passes = Rate(), Rate()
        """Of new tokens, and of passes."""
        self._num_passes = llm.runner.num_steps
        self._is_stopping = False
        self._inbox: deque[Callable[[], None]] = deque()
        self._outbox = Outbox(self._loop, self._deliver)
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="wavefold-engine", daemon=True)
        # the thread's own
        self._waiting: OrderedDict[Reader, None] = OrderedDict()
        self._readers: dict[Hashable, Reader] = {}
        self._reading: dict[Reader, None] = {}
        """Those whose prompt has not been read."""
        self._num_failures, self._began = 0, 0.0
        self._thread.start()

    # -- the loop's side -----------------------------------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """Requests for which there is no place yet, by numbers alone."""
        return max(0, len(self._open) - self.width)

    @property
    def num_running(self) -> int:
        return self.num_open - self.num_waiting

    @property
    def tokens_per_pass(self) -> float:
        """New tokens of a pass in the last seconds; 0 where there was none."""
        return self.rate.per_s / (self._passes.per_s or 1.0)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    def submit(self, *requests: Request) -> list[Reader]:
        """Gives requests to the engine, all or none. They wait for their places.

        Raises QueueFull, Stopped, and ValueError for more requests than there are places.
        """
        if not self.is_alive:
            raise Stopped(STOPPED)
        if len(requests) > self.width + self.max_queue:
            raise ValueError(
                f"{len(requests)} answers to one request are not allowed; this server runs {self.width} and lets "
                f"{self.max_queue} wait (--width, --max-queue): expected {self.width + self.max_queue} at most"
            )
        if len(self._open) + len(requests) > self.width + self.max_queue:
            raise QueueFull(self.num_open, self.retry_after)
        readers = [Reader(request, self._abort_later) for request in requests]
        self._open.update(readers)
        self._put(lambda: self._waiting.update(dict.fromkeys(readers)))
        return readers

    @property
    def retry_after(self) -> int:
        """Seconds until a place in the queue should be free: that of one answer, of those that run together."""
        return max(1, min(60, round(self._mean_s * (1 + self.num_waiting) / self.width)))

    async def stop(self) -> None:
        """Ends all requests, then the thread, and waits for it. What was read stays cached."""
        self._is_stopping = True
        self._put(lambda: None)
        await asyncio.to_thread(self._thread.join)

    def _abort_later(self, reader: Reader, reason: str) -> None:
        self._open.discard(reader)
        self._put(lambda: self._abort(reader, reason))

    def _put(self, task: Callable[[], object]) -> None:
        with self._turn:
            self._inbox.append(task)  # type: ignore[arg-type]
            self._turn.notify()

    def _deliver(self, batch: Batch) -> None:
        self.rate.add(sum(len(news.ids) for _, news in batch))
        num_passes, self._num_passes = self._num_passes, self.llm.runner.num_steps
        self._passes.add(self._num_passes - num_passes)
        for reader, news in batch:
            if (ended := news.ended) is not None:
                self._open.discard(reader)
                self._on_end(ended)
                if ended.queue_s is not None:
                    self._mean_s += (ended.total_s - ended.queue_s - self._mean_s) / 8
            reader.push(news)

    def _end_rest(self, reason: str) -> None:
        """The thread has ended: no request is left without an end."""
        self._tell([(reader, News(ended=reader.so_far("error", reason))) for reader in self._open])
        self._outbox.tell()

    # -- the thread's side ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reason = STOPPED
        try:
            while not self._is_stopping:
                self._turn_once()
        except Exception as error:
            log.exception("the engine has ended")
            reason = _in_engine(error)
        self._is_stopping = True
        try:
            self._run_inbox()
            for reader in [*self._waiting, *self._readers.values()]:
                self._abort(reader, "error", reason)
        except Exception:
            log.exception("a request could not be ended")
        with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
            self._loop.call_soon_threadsafe(self._end_rest, reason)

    def _turn_once(self) -> None:
        """Waits for work, and makes one step."""
        with self._turn:
            while not (self._inbox or self._waiting or not self.llm.runner.idle):
                self._turn.wait()
        self._run_inbox()
        if not self._is_stopping:
            with self._turns:
                began = time.perf_counter()
                batch = self._admit(self.llm.runner) + self._step(self.llm.runner)
            self._tell(batch, time.perf_counter() - began)

    def _run_inbox(self) -> None:
        with self._turn:
            inbox, self._inbox = self._inbox, deque()
        for task in inbox:
            task()

    def _admit(self, runner: Runner) -> Batch:
        """Gives waiting requests to the runner, as many as it may need. Returns those that cannot be run."""
        batch: Batch = []
        while self._waiting and runner.num_open < self.width + AHEAD:
            reader = next(iter(self._waiting))
            try:
                if not self.llm.has_place(reader.request):
                    break
                self.llm.add([reader.request])
            except ValueError as error:
                batch.append((reader, News(ended=reader.so_far("refused", str(error)))))
            except Exception as error:
                log.exception("a request could not be begun")
                batch.append((reader, News(ended=reader.so_far("error", _in_engine(error)))))
            else:
                self._readers[reader.request.id] = reader
                self._reading[reader] = None
            del self._waiting[reader]
        return batch

    def _abort(self, reader: Reader, reason: str, error: str = "") -> None:
        if reader in self._waiting:
            del self._waiting[reader]
        elif self._readers.pop(reader.request.id, None) is not None:
            self._reading.pop(reader, None)
            self.llm.runner.abort(reader.request.id)
        else:
            return
        self._tell([(reader, News(ended=reader.so_far(reason, error)))])

    def _step(self, runner: Runner) -> Batch:
        self._began = time.perf_counter()
        try:
            outputs = runner.step()
            self._num_failures = 0
        except Exception as error:
            outputs = []
            self._num_failures += 1
            log.exception("a step of the engine failed")
            if self._num_failures >= TRIES:
                for request_id in list(self._readers):
                    runner.abort(request_id)
                    answer = answer_of(self._readers[request_id].request)
                    answer.finish_reason, answer.error = "error", _in_engine(error)
                self._num_failures = 0
        batch: Batch = []
        for output in outputs:
            if (reader := self._readers.get(output.request.id)) is not None:
                self._take(reader, batch)
        return batch + self._others()

    def _take(self, reader: Reader, batch: Batch) -> None:
        """Counts the new tokens of a request. Its first one and its end are news of the batch."""
        answer = answer_of(reader.request)
        reader.num_known = len(answer.tokens)
        if reader.first_s is not None and answer.finish_reason is None:
            self._outbox.hold(reader)
            return
        self._reading.pop(reader, None)
        news = News()
        self._begin(reader, news)
        if reader.first_s is None:
            reader.first_s = time.perf_counter() - reader.submitted
        if answer.finish_reason is not None:
            self._readers.pop(reader.request.id, None)
            news.ended = reader.so_far(answer.finish_reason, answer.error)
        batch.append((reader, news))

    def _begin(self, reader: Reader, news: News) -> None:
        if not reader.is_begun:
            reader.is_begun = True
            reader.queue_s = max(0.0, self._began - reader.submitted)
            news.begun = answer_of(reader.request).usage

    def _others(self) -> Batch:
        """Returns what is new of requests without tokens: prompts that were read on, ends that nobody computed."""
        batch: Batch = []
        for reader in list(self._reading):
            if reader.request.state != "running" and not reader.is_begun:
                continue
            news = News()
            self._begin(reader, news)
            if (read := num_read(reader.request)) > reader.num_read:
                news.read = reader.num_read = read
            if news:
                batch.append((reader, news))
        for reader in [one for one in self._readers.values() if answer_of(one.request).finish_reason is not None]:
            answer = answer_of(reader.request)
            del self._readers[reader.request.id]
            self._reading.pop(reader, None)
            batch.append((reader, News(ended=reader.so_far(str(answer.finish_reason), answer.error))))
        return batch

    def _tell(self, batch: Batch, step_s: float = 0.0) -> None:
        """Gives the news of a step, which took so long, to the loop."""
        try:
            self._outbox.put(batch, step_s)
        except RuntimeError:  # the loop has ended before the thread
            self._is_stopping = True


def _in_engine(error: Exception) -> str:
    """Returns what a client is told of an error that is not its own."""
    return f"{type(error).__name__} in the engine"
