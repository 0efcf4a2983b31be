"""Which models come and go: single rules, and random traffic in which budget, order and waits hold."""

from __future__ import annotations

import random

import pytest

from wavefold.pool.slots import Streams, shared_out
from wavefold.pool.turns import Leave, Load, Resident, TooLarge, Wanted, moves, next_look

TOTAL, MAX_WAIT, IDLE = 100, 10.0, 1000.0


def asked(resident: list[Resident], *wanted: Wanted, now: float = 1.0) -> list[object]:
    return list(moves(resident, wanted, TOTAL, now, MAX_WAIT, IDLE))


def test_what_fits_comes_at_once_and_whole() -> None:
    assert asked([Resident("a", 40, num_users=1)], Wanted("b", 0, 60, 10)) == [Load("b", 60)]


def test_the_least_recently_used_leaves_and_no_more_than_are_needed() -> None:
    resident = [Resident("a", 40, last_used=0.5), Resident("b", 30, last_used=0.2), Resident("c", 30, last_used=0.9)]
    assert asked(resident, Wanted("d", 0, 30, 10)) == [Leave("b")]
    assert asked(resident, Wanted("d", 0, 50, 10)) == [Leave("b"), Leave("a")]


def test_what_is_used_stays_until_somebody_has_waited_long() -> None:
    resident = [Resident("a", 60, num_users=1), Resident("b", 40, num_users=1, last_used=0.1)]
    assert asked(resident, Wanted("c", 0, 50, 10), now=9.9) == []
    assert asked(resident, Wanted("c", 0, 50, 10), now=10.0) == [Leave("a")]
    assert asked(resident, Wanted("c", 0, 90, 10), now=10.0) == [Leave("a"), Leave("b")]


def test_a_model_that_was_just_loaded_is_kept_a_little() -> None:
    resident = [Resident("a", 60, last_used=1.0, load_seconds=4.0)]
    assert asked(resident, Wanted("b", 0.5, 50, 10), now=1.9) == []
    assert asked(resident, Wanted("b", 0.5, 50, 10), now=2.0) == [Leave("a")]


def test_pinned_models_stay_and_others_get_less_beside_them() -> None:
    resident = [Resident("a", 60, is_pinned=True)]
    assert asked(resident, Wanted("b", 0, 80, 30)) == [Load("b", 40)]
    assert asked(resident, Wanted("b", 0, 80, 50)) == [TooLarge("b", 40)]


def test_adapters_of_a_pinned_model_are_room_that_nobody_else_gets() -> None:
    """A request goes on beside them; where it needs their room it waits, and others need not wait for it."""
    pinned = Resident("a", 40, num_users=1, is_pinned=True, adapter_bytes=5)
    assert asked([pinned], Wanted("b", 0, 100, 50)) == [Load("b", 55)]
    whole, small = Wanted("b", 0, 100, 58), Wanted("c", 500, 10, 10)
    assert asked([pinned], whole, small, now=1000.0) == [Load("c", 10)]
    pinned.adapter_bytes = 0
    assert asked([pinned], whole, small, now=1000.0) == [Load("b", 60)]


def test_one_comes_at_a_time_and_a_smaller_one_may_pass_before_the_first_is_overdue() -> None:
    coming = [Resident("a", 20, is_coming=True)]
    assert asked(coming, Wanted("b", 0, 20, 10)) == []
    resident = [Resident("a", 60, num_users=1)]
    large, small = Wanted("b", 0, 80, 30), Wanted("c", 0.5, 20, 10)
    assert asked(resident, small, large) == [Load("c", 20)]
    assert asked(resident, small, large, now=10.0) == [Leave("a")]


def test_what_leaves_counts_as_room_to_come() -> None:
    resident = [Resident("a", 60, is_leaving=True, num_users=2), Resident("b", 40)]
    assert asked(resident, Wanted("c", 0, 60, 10)) == []
    assert asked(resident, Wanted("a", 0, 60, 10)) == [], "it has to leave before it comes back"


def test_idle_models_leave_by_themselves() -> None:
    resident = [Resident("a", 30), Resident("b", 30, num_users=1), Resident("c", 30, is_pinned=True)]
    assert asked(resident, now=1001.0) == [Leave("a")]
    assert next_look(resident, [], 1.0, MAX_WAIT, IDLE) == 999.0


@pytest.mark.parametrize("seed", range(40))
def test_random_traffic_keeps_the_budget_and_starves_nobody(seed: int) -> None:
    """A simulation by events: a tick is 0.1 s, loading takes a second, an answer up to three."""
    draws = random.Random(seed)
    sizes = {f"m{i}": draws.randrange(20, 101) for i in range(6)}
    resident: dict[str, Resident] = {}
    queue: list[tuple[str, float]] = []
    ends: list[tuple[float, str]] = []
    loads: list[tuple[float, str]] = []
    longest = 0.0
    for tick in range(6000):
        now = tick / 10
        if tick < 4000 and draws.random() < 0.15:
            queue.append((draws.choice(list(sizes)), now))
        for when, name in [one for one in loads if one[0] <= now]:
            resident[name].is_coming, resident[name].load_seconds, resident[name].last_used = False, 1.0, now
            loads.remove((when, name))
        for when, name in [one for one in ends if one[0] <= now]:
            resident[name].num_users -= 1
            resident[name].last_used = now
            ends.remove((when, name))
        for name, since in list(queue):
            one = resident.get(name)
            if one is not None and not one.is_coming and not one.is_leaving:
                one.num_users += 1
                ends.append((now + draws.random() * 3, name))
                queue.remove((name, since))
                longest = max(longest, now - since)
        for name in [name for name, one in resident.items() if one.is_leaving and not one.num_users]:
            del resident[name]
        wanted = {name: since for name, since in reversed(queue) if name not in resident or resident[name].is_leaving}
        asks = [Wanted(name, since, sizes[name], 10) for name, since in wanted.items()]
        for move in moves(list(resident.values()), asks, TOTAL, now, MAX_WAIT, IDLE):
            if isinstance(move, Load):
                resident[move.name] = Resident(move.name, move.num_bytes, is_coming=True)
                loads.append((now + 1.0, move.name))
            elif isinstance(move, Leave):
                resident[move.name].is_leaving = True
            else:
                raise AssertionError(move)
        assert sum(one.num_bytes for one in resident.values()) <= TOTAL
    assert not queue and not ends, "everybody was answered"
    assert longest < len(sizes) * (MAX_WAIT + 1 + 3), "a wait, a load and an answer for each other model, at most"


def test_streams_share_by_use_and_leave_nothing_that_others_could_take() -> None:
    models = {"a": Streams(3, 10, 1000), "b": Streams(1, 10, 1000), "c": Streams(100, 10, 30)}
    shares = shared_out(130, models)
    assert shares == {"a": 10 + 60, "b": 10 + 20, "c": 30}
    assert shared_out(20, models) == {"a": 10, "b": 10, "c": 10}
    assert shared_out(10_000, models) == {"a": 1000, "b": 1000, "c": 30}
    assert shared_out(100, {}) == {}
