"""The simulator against closed forms that were derived without it, and against what is published."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavefold.waves.schedule import Waves
from wavefold.waves.simulate import Link, best_waves, even_load, naive_actions, simulate
from wavefold.waves.timeline import draw

ONE = Link(1.0)


def seconds(
    num_waves: int, compute: float, dispatch: float, combine: float, ring: int = 0, overhead: float = 0.0
) -> float:
    waves = Waves(64, 2, num_waves, ring)
    return simulate(waves, even_load(waves, compute, dispatch, combine, overhead), ONE).seconds


def naive(compute: float, dispatch: float, combine: float) -> float:
    waves = Waves(64, 2)
    return simulate(waves, even_load(waves, compute, dispatch, combine), ONE, naive_actions()).seconds


@given(st.floats(0.1, 10), st.floats(0.01, 10), st.floats(0.01, 10))
def test_naive_is_the_sum(compute: float, dispatch: float, combine: float) -> None:
    assert naive(compute, dispatch, combine) == pytest.approx(compute + dispatch + combine)
    assert seconds(1, compute, dispatch, combine) == pytest.approx(compute + dispatch + combine)


@settings(deadline=None)
@given(st.integers(2, 32), st.floats(0.5, 2), st.floats(0.01, 2), st.floats(0.01, 2), st.floats(0, 0.05))
def test_waves_take_what_the_closed_form_says(
    num: int, compute: float, dispatch: float, combine: float, over: float
) -> None:
    """max(T_K + N o + d + c, T_D + T_C): never less than either's ends, at most 8 % and a fill and a drain more."""
    mine = seconds(num, compute, dispatch, combine, overhead=over)
    ends = (dispatch + combine) / num
    form = max(compute + num * over + ends, dispatch + combine)
    assert mine >= max(compute + num * over + ends, dispatch + combine) * (1 - 1e-9)
    assert mine <= 1.08 * form + (compute + num * over + combine) / num


def test_rings_hold_up_as_derived() -> None:
    """At 16 waves and rho 0.92: 1.43 times with a ring of one, all of it with two; at 1.25 four are needed."""
    parts = 1.0, 0.92 / 3, 0.92 * 2 / 3
    times = {ring: naive(*parts) / seconds(16, *parts, ring=ring) for ring in (1, 2, 16)}
    assert times[1] == pytest.approx(1.43, abs=0.06) and times[2] == pytest.approx(times[16], rel=0.02)
    parts = 1.0, 1.25 / 3, 1.25 * 2 / 3
    times = {ring: seconds(16, *parts, ring=ring) for ring in (2, 4, 16)}
    assert times[4] == pytest.approx(times[16], rel=0.02) and times[2] > times[16]


def test_the_published_bound_and_balance() -> None:
    """Report, figure 5: 1.92 times for waves is rho 0.92 without overhead; 24 waves at rho 1 give it too."""
    parts = 1.0, 0.92 / 3, 0.92 * 2 / 3
    assert naive(*parts) / max(parts[0], 0.92) == pytest.approx(1.92)
    assert naive(1.0, 1 / 3, 2 / 3) / seconds(24, 1.0, 1 / 3, 2 / 3) == pytest.approx(1.92, abs=0.04)


def test_more_waves_cannot_hide_more_than_there_is() -> None:
    best, tried = best_waves(Waves(64, 2), 1.0, 0.8, 1.6, ONE)
    assert tried[best.num_waves] == pytest.approx(2.4, rel=0.01) and best.num_waves < 32


def test_the_best_number_is_where_fill_and_overhead_meet() -> None:
    """sqrt((T_D + T_C) / o)."""
    _, tried = best_waves(Waves(128, 2), 1.0, 0.3, 0.6, ONE, overhead_s=0.002)
    assert min(tried, key=tried.__getitem__) == pytest.approx((0.9 / 0.002) ** 0.5, rel=0.15)


def test_the_hottest_rank_decides() -> None:
    waves = Waves(8, 2, 4)
    load = even_load(waves, 1.0, 0.1, 0.1)
    hot = type(load)([[c[0], 3 * c[1]] for c in load.compute], load.dispatch, load.combine)
    assert simulate(waves, hot, ONE).seconds > 3.0


def test_contention_slows_what_computes_beside_the_link() -> None:
    waves = Waves(64, 2, 16)
    load = even_load(waves, 1.0, 0.3, 0.5)
    slow = simulate(waves, load, Link(1.0, contention=0.5)).seconds
    assert 1.2 < slow / simulate(waves, load, ONE).seconds < 1.5


def test_it_draws(tmp_path: Path) -> None:
    waves = Waves(8, 2, 4)
    outcome = simulate(waves, even_load(waves, 1.0, 0.3, 0.5), ONE)
    kinds = [(span.rank, span.kind, span.wave) for span in outcome.spans]
    assert len(kinds) == len(set(kinds)) == 2 * 3 * 4 and max(span.end for span in outcome.spans) == outcome.seconds
    draw([("plan", outcome.spans)], tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()
    with pytest.raises(ValueError, match=r"svg or \.png"):
        draw([("plan", outcome.spans)], tmp_path / "plan.txt")


@pytest.mark.parametrize("facts", [(0.0,), (1.0, -1.0), (1.0, 0.0, -0.1)])
def test_links_that_cannot_be(facts: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected a positive rate"):
        Link(*facts)
