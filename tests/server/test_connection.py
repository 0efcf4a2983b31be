"""Clocks of a connection, on a loop whose time is set by hand. (`test_app.py` has those of a running server.)"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from wavefold.server.connection import LATE_S, Clock


class Loop:
    """One timer at a time, and a time that the test sets."""

    def __init__(self) -> None:
        self.now, self.due, self.ring = 0.0, 0.0, lambda: None

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, ring: Callable[[], None]) -> SimpleNamespace:
        self.due, self.ring = self.now + seconds, ring
        due = self.due
        return SimpleNamespace(when=lambda: due, cancel=lambda: None)

    def ring_at(self, now: float) -> None:
        self.now = now
        self.ring()


def connection(loop: Loop, ended: list[float]) -> SimpleNamespace:
    transport = SimpleNamespace(abort=lambda: ended.append(loop.now), get_extra_info=lambda name: None)
    return SimpleNamespace(loop=loop, transport=transport)


@pytest.mark.parametrize("late", (0.0, LATE_S / 2))
def test_a_clock_that_rings_in_time_ends_the_connection(late: float) -> None:
    loop, ended = Loop(), []
    Clock(connection(loop, ended), 5.0).start()
    loop.ring_at(5.0 + late)
    assert ended == [5.0 + late]


def test_a_process_that_was_stopped_gives_its_clients_their_time_anew() -> None:
    loop, ended = Loop(), []
    Clock(connection(loop, ended), 5.0).start()
    loop.ring_at(600.0)
    assert not ended and loop.due == 605.0
    loop.ring_at(605.0)
    assert ended == [605.0]
