"""The schedule alone: every expert in one wave of one rank, every message sent and expected once, rings that hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavefold.waves.schedule import Waves


@st.composite
def schedules(draw: st.DrawFn) -> Waves:
    num_experts = draw(st.integers(1, 40))
    num_ranks = draw(st.integers(1, min(num_experts, 6)))
    num_waves = draw(st.integers(1, num_experts // num_ranks))
    return Waves(num_experts, num_ranks, num_waves, draw(st.integers(0, num_waves)))


@given(schedules())
def test_every_expert_works_once(waves: Waves) -> None:
    found = [expert for rank in range(waves.num_ranks) for wave in range(waves.num_waves)
             for expert in waves.experts(rank, wave)]  # fmt: skip
    assert found == list(range(waves.num_experts))
    for rank in range(waves.num_ranks):
        for wave in range(waves.num_waves):
            assert waves.experts(rank, wave)
            assert all((waves.rank_of(e), waves.wave_of(e)) == (rank, wave) for e in waves.experts(rank, wave))


@given(schedules())
def test_steps_are_in_an_order_that_works(waves: Waves) -> None:
    under_way, most, seen = set(), 0, set()
    for action in waves.actions():
        key = action.verb, action.kind, action.wave
        assert key not in seen
        seen.add(key)
        if action.verb == "send" and action.kind == "dispatch":
            under_way.add(action.wave)
            assert ("expect", "dispatch", action.wave) in seen
        elif action.verb == "compute":
            assert ("wait", "dispatch", action.wave) in seen
            under_way.remove(action.wave)
        elif action.verb == "send":
            assert ("compute", None, action.wave) in seen
        elif action.verb == "wait":
            assert ("expect", action.kind, action.wave) in seen and ("send", action.kind, action.wave) in seen
        most = max(most, len(under_way))
    assert most == waves.depth and len(seen) == 7 * waves.num_waves


@pytest.mark.parametrize(
    ("facts", "message"),
    [((4, 5), "1 to 4"), ((4, 0), "1 to 4"), ((9, 2, 5), "1 to 4, the experts"), ((8, 2, 3, 4), "1 to 3, the waves")],
)
def test_what_cannot_be(facts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Waves(*facts)


def test_it_prints() -> None:
    text = str(Waves(8, 2, 2, 1))
    assert "rank 1: 4-5 | 6-7" in text and "send dispatch 0, wait dispatch 0, compute 0, expect dispatch 1" in text
