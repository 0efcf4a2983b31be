"""Tokens of quick steps go to the loop together, everything else at once, and nothing is lost or changes its order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.scripted import Body, IdsWriter
from wavefold import Sampling
from wavefold.chat import Prompt
from wavefold.engine.usage import Usage
from wavefold.server.exchange import MOST_SINGLE, Exchange
from wavefold.server.line import Line, time_per_token
from wavefold.server.news import Ended, News, Reader
from wavefold.server.outbox import HOLD_S, SLOW_S, Batch, Outbox
from wavefold.server.protocol import Asked, Part, Refused

QUICK_S = 0.001
ENDED = Ended("length", Usage(1))


class Loop:
    """An event loop whose clock stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.told: list[Batch] = []
        self.outbox = Outbox(self, self.told.append, lambda: self.now)  # type: ignore[arg-type]

    def call_soon_threadsafe(self, function: Callable[..., object], *arguments: Any) -> None:
        self.calls.append(lambda: function(*arguments))

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        self.timers.append((self.now + seconds, function))

    def ripen(self) -> None:
        """Puts timers that are due behind the calls that wait, as a loop does that is kept busy."""
        due = sorted((timer for timer in self.timers if timer[0] <= self.now), key=lambda timer: timer[0])
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        self.calls += [call for _, call in due]

    def run(self, until: float) -> Batch:
        """Runs what is due until then. Returns what was told."""
        while True:
            self.ripen()
            calls, self.calls = self.calls, []
            for call in calls:
                call()
            if not self.calls:
                coming = [time for time, _ in self.timers if time <= until]
                if not coming:
                    break
                self.now = max(self.now, min(coming))
        self.now = max(self.now, until)
        told, self.told[:] = [pair for batch in self.told for pair in batch], []
        return told


def reader() -> Reader:
    request = SimpleNamespace(sampling=SimpleNamespace(tokens=[], logprobs=[]))
    return Reader(request, lambda reader, reason: None)  # type: ignore[arg-type]


def choose(one: Reader, *tokens: int) -> None:
    """The engine has chosen tokens."""
    answer = one.request.sampling
    answer.tokens += tokens  # type: ignore[attr-defined]
    answer.logprobs += [f"of {token}" for token in tokens]  # type: ignore[attr-defined]
    one.num_known += len(tokens)


def step(loop: Loop, *readers: Reader, step_s: float = QUICK_S) -> None:
    """A step of the engine with a token for each reader: its number among theirs."""
    for one in readers:
        choose(one, one.num_known)
        loop.outbox.hold(one)
    loop.outbox.put([], step_s)


def ids_of(batch: Batch) -> list[list[int]]:
    assert all(news.logprobs == [f"of {token}" for token in news.ids] for _, news in batch)
    return [news.ids for _, news in batch]


def test_tokens_of_quick_steps_go_together_and_wait_no_longer_than_they_may() -> None:
    loop, one = Loop(), reader()
    choose(one, 0)
    loop.outbox.put([(one, News())], QUICK_S)  # a first token, which is told at once
    assert ids_of(loop.run(0.0)) == [[0]]
    for number in range(1, 6):
        loop.now = HOLD_S * number / 10
        step(loop, one)
        assert not loop.run(loop.now)
    assert not loop.run(HOLD_S * 0.99)
    assert ids_of(loop.run(HOLD_S * 1.001)) == [[1, 2, 3, 4, 5]]
    assert not loop.run(HOLD_S * 3) and not loop.timers  # nothing is held: nobody wakes the loop
    step(loop, one)  # none was told for long
    assert ids_of(loop.run(loop.now)) == [[6]]


def test_news_are_told_at_once_with_the_tokens_of_their_request() -> None:
    loop, one, other = Loop(), reader(), reader()
    step(loop, one, other)
    assert ids_of(loop.run(0.0)) == [[0], [0]]
    step(loop, one, other)
    step(loop, one, other)
    loop.outbox.put([(one, News(ended=ENDED))], QUICK_S)
    [(told, news)] = loop.run(0.0)
    assert told is one and news.ids == [1, 2] and news.ended is ENDED
    assert ids_of(loop.run(HOLD_S * 1.001)) == [[1, 2]]


def test_slow_steps_hold_nothing() -> None:
    loop, one = Loop(), reader()
    for number in range(4):
        step(loop, one, step_s=SLOW_S)
        assert ids_of(loop.run(loop.now + SLOW_S)) == [[number]]
    step(loop, one)
    step(loop, one, step_s=SLOW_S)
    assert ids_of(loop.run(loop.now)) == [[4, 5]]


def test_a_busy_loop_gets_what_came_while_its_timer_waited_in_order() -> None:
    """The timer is due, behind other work, when more tokens come: some told at once, then some that are held."""
    loop, one = Loop(), reader()
    step(loop, one)
    step(loop, one)
    assert ids_of(loop.run(HOLD_S / 2)) == [[0]]
    loop.now = HOLD_S
    loop.ripen()
    step(loop, one, step_s=SLOW_S)
    step(loop, one)
    assert [token for ids in ids_of(loop.run(HOLD_S)) for token in ids] == [1, 2, 3]


def test_every_token_comes_once_and_in_order() -> None:
    drawn = random.Random(0)
    loop, readers = Loop(), [reader() for _ in range(5)]
    seen: dict[Reader, list[int]] = {one: [] for one in readers}

    def look(seconds: float) -> None:
        for one, news in loop.run(loop.now + seconds):
            seen[one] += news.ids

    for _ in range(3000):
        step(loop, *drawn.sample(readers, drawn.randrange(6)), step_s=drawn.choice((QUICK_S, QUICK_S, SLOW_S)))
        if drawn.random() < 0.1:
            loop.outbox.put([(drawn.choice(readers), News(read=1))], QUICK_S)
        if drawn.random() < 0.2:  # the loop is busy with something else
            loop.now += drawn.random() * HOLD_S
            loop.ripen()
        else:
            look(drawn.random() * HOLD_S / 3)
    look(HOLD_S * 1.001)
    assert all(ids == list(range(one.num_known)) and len(ids) > 500 for one, ids in seen.items())


class OneEach(IdsWriter):
    """Writes down how tokens come."""

    def __init__(self, asked: Asked):
        super().__init__(asked)
        self.calls: list[list[int]] = []

    def tokens(self, ids: Any, logprobs: Any, index: int = 0) -> bytes:
        self.calls.append(list(ids))
        return super().tokens(ids, logprobs, index)


def exchange_of(stop_after: int = 0) -> tuple[Exchange, OneEach, Reader]:
    body = Body(model="wavefold", ids=[5], stream=True, stop_after=stop_after)
    asked = Asked("wavefold", (Part(Prompt([5]), Sampling()),), True, False, body)
    writer, one = OneEach(asked), reader()
    one.so_far = lambda reason, error="": Ended(reason, Usage(1))  # type: ignore[method-assign]
    return Exchange(asked, writer, [one], Line("POST", "/")), writer, one


def test_tokens_that_come_together_are_an_event_each() -> None:
    exchange, writer, one = exchange_of()
    one.push(News(ids=[7, 8, 9]))
    assert exchange.frames().count(b"data: ") == 3 and writer.calls == [[7], [8], [9]]


def test_a_long_backlog_is_one_event() -> None:
    """A client that read nothing for long does not make the loop write frame by frame."""
    exchange, writer, one = exchange_of()
    one.push(News(ids=list(range(MOST_SINGLE + 1))))
    assert exchange.frames().count(b"data: ") == 1 and len(writer.calls[0]) == MOST_SINGLE + 1


def test_tokens_after_the_one_that_ends_an_answer_are_neither_shown_nor_counted() -> None:
    exchange, writer, one = exchange_of(stop_after=2)
    one.push(News(ids=[7, 8, 9, 10]))
    data = exchange.frames()
    assert writer.calls == [[7], [8]] and b'"ends": [["stop", 1, 2]]' in data and exchange.is_done


def test_an_answer_that_no_client_can_use_ends_those_beside_it() -> None:
    body = Body(model="wavefold", ids=[5], n=2)
    asked = Asked("wavefold", (Part(Prompt([5]), Sampling()),) * 2, True, False, body)
    closed: list[Reader] = []
    readers = [Reader(SimpleNamespace(), lambda one, reason: closed.append(one)) for _ in range(2)]  # type: ignore[arg-type]
    for one in readers:
        one.so_far = lambda reason, error="": Ended(reason, Usage(1))  # type: ignore[method-assign]
    exchange = Exchange(asked, Unusable(asked), readers, Line("POST", "/"))
    readers[0].push(News(ids=[7], ended=ENDED))
    readers[1].push(News(ids=[8]))
    assert exchange.frames().endswith(b'{"error": "no JSON"}\n\n') and exchange.is_done
    assert closed == [readers[1]]


class Unusable(IdsWriter):
    """Finds that an answer is nothing that a client could use."""

    def _finished(self, *arguments: Any) -> bytes:
        raise Refused(500, "no JSON", "invalid_call")


def test_the_time_of_a_token_is_of_all_that_the_engine_chose() -> None:
    """Also of those beyond a stop text of the protocol, which an answer does not show."""
    ended = Ended("stop", replace(Usage(1), completion_tokens=2), first_s=1.0, total_s=2.0, num_tokens=11)
    assert time_per_token(ended) == pytest.approx(0.1)
    assert time_per_token(ended._replace(num_tokens=1)) is None
