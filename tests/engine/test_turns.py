"""Turns: a pass beside requests comes before the next step, and two such passes have a step between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from wavefold.engine import turns as turns_module
from wavefold.engine.turns import Turns


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.001)


def test_a_pass_comes_before_the_next_step() -> None:
    """However soon the step is asked for: here by the thread that gives the turn back."""
    for _ in range(20):
        turns = Turns()
        order: list[str] = []

        def run(turns: Turns = turns, order: list[str] = order) -> None:
            with turns.beside(lambda: True):
                order.append("pass")

        running = threading.Thread(target=run)
        with turns.step():
            running.start()
            until(turns._gate.locked)
        with turns.step():
            order.append("step")
        running.join()
        assert order == ["pass", "step"]


def test_a_step_comes_between_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "PATIENCE_S", 60.0)
    turns = Turns()
    order: list[str] = []

    def run() -> None:
        for _ in range(2):
            with turns.beside(lambda: False):
                order.append("pass")

    running = threading.Thread(target=run)
    running.start()
    until(lambda: bool(order))
    time.sleep(0.05)  # time for a pass that should wait
    with turns.step():
        order.append("step")
    running.join()
    assert order == ["pass", "step", "pass"]


def test_nobody_waits_for_steps_that_are_not_due() -> None:
    turns = Turns()
    for _ in range(2):
        with turns.beside(lambda: True):
            pass
    with turns.beside(lambda: False):  # after PATIENCE_S
        pass


def test_a_turn_is_given_back_after_an_error() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.beside(lambda: True):
        raise KeyError
    with turns.step(), turns.lock:
        pass
