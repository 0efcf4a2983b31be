"""Look-up drafts, and how many of them are worth their rows."""

from __future__ import annotations

from random import Random

import pytest

from wavefold.engine.lookup import LONGEST, SHORTEST, Lookup, propose
from wavefold.engine.speculation import PROBE, Acceptance, Speculation, StepCost


@pytest.mark.parametrize(
    ("tokens", "depth", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2], 3, [3, 4, 5]),
        ([1, 2, 3, 4, 5, 1, 2], 6, [3, 4, 5, 1, 2, 3]),  # less far back than that: the text repeats itself
        ([8, 1, 2, 5, 9, 1, 2, 6, 8, 1, 2], 1, [5]),  # a longer match goes before a later one
        ([1, 2, 5, 9, 1, 2, 6, 7, 1, 2], 1, [6]),  # of equal ones the later
        ([7, 7, 7, 7], 3, [7, 7, 7]),
        ([1, 2, 3, 4, 5], 3, []),
        ([1], 3, []),
        ([], 3, []),
        ([4, 9, 4], 3, []),  # one token is no match
    ],
)
def test_guesses_are_what_followed(tokens: list[int], depth: int, expected: list[int]) -> None:
    assert list(propose(tokens, depth)) == expected


def test_a_growing_text_is_read_once_and_as_if_anew() -> None:
    random = Random(4)
    tokens = [random.randrange(4) for _ in range(300)]
    lookup = Lookup()
    for end in range(300):
        assert list(lookup.propose(tokens[:end], 5)) == list(propose(tokens[:end], 5))


def test_wrong_guesses_ask_for_a_longer_match() -> None:
    lookup, tokens = Lookup(), [1, 2, 3, 4, 5, 9, 3, 4]
    assert lookup.propose(tokens, 1) == [5]
    for _ in range(LONGEST - SHORTEST):
        lookup.observe(0, 1)
    assert lookup.propose(tokens, 1) == []
    lookup.observe(0, 0)
    assert lookup.propose(tokens, 1) == []
    lookup.observe(1, 1)
    assert lookup.propose(tokens, 1) == [5]


def test_the_cost_is_the_line_through_the_steps() -> None:
    cost = StepCost()
    assert cost.line is None and cost.seconds(3) == 0
    for _ in range(5):
        cost.observe(4, 0.22)
    cost.observe(5, 0.25)
    assert cost.line is None, "one step says little"
    random = Random(1)
    for _ in range(400):
        rows = random.randint(1, 20)
        cost.observe(rows, 0.1 + 0.03 * rows)
    assert cost.line == (pytest.approx(0.1), pytest.approx(0.03))
    assert cost.seconds(7) == pytest.approx(0.31) and cost.seconds(7, 2) == pytest.approx(0.26)
    for _ in range(1200):  # it forgets
        rows = random.randint(1, 20)
        cost.observe(rows, 1 + 0.2 * rows)
    assert cost.line == (pytest.approx(1, rel=0.01), pytest.approx(0.2, rel=0.01))


def test_the_last_steps_of_another_size_stay_known() -> None:
    """However long one size is all that comes; steps of long ago weigh nothing beside two sizes of now."""
    cost = StepCost()
    for _ in range(10):
        cost.observe(64, 9.0), cost.observe(1, 1.0), cost.observe(2, 1.5)
    for _ in range(3000):
        cost.observe(1, 1.0)
    assert cost.line == (pytest.approx(0.5, rel=0.01), pytest.approx(0.5, rel=0.01))
    cost.observe(2, 1.5)
    assert cost.line == (pytest.approx(0.5, rel=0.01), pytest.approx(0.5, rel=0.01))


def test_one_slow_step_decides_nothing() -> None:
    cost = StepCost()
    for _ in range(20):
        cost.observe(1, 1.0), cost.observe(2, 1.2)
    cost.observe(2, 2.0)
    assert cost.line is not None and cost.line[1] == pytest.approx(0.2 + 0.8 / 8)


def test_a_cost_is_never_negative() -> None:
    cost = StepCost()
    for rows, seconds in ((1, 5.0), (9, 1.0), (2, 4.0)) * 2:
        cost.observe(rows, seconds)
    assert cost.line is not None and cost.line[0] >= 0 and cost.line[1] == 0
    cost = StepCost()
    for rows in (1, 2, 3, 4) * 2:
        cost.observe(rows, rows**3)
    assert cost.line is not None and cost.line[0] >= 0 and cost.line[1] > 0


def acceptance_of(rate: float) -> Acceptance:
    """What is seen of drafts that are right with this probability."""
    random, acceptance = Random(2), Acceptance()
    for _ in range(400):
        accepted = 0
        while accepted < 4 and random.random() < rate:
            accepted += 1
        acceptance.observe(accepted, 4)
    return acceptance


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_the_acceptance_is_that_of_a_draft(rate: float) -> None:
    """Drafts after a wrong one were not tried."""
    assert acceptance_of(rate).rate == pytest.approx(rate, abs=0.12)


def best_by_trying(fixed: float, per_row: float, rows: int, others: int, rate: float, most: int) -> int:
    """The depth with the most tokens a second, by the definition."""

    def speed(depth: int) -> float:
        return (others + sum(rate**n for n in range(depth + 1))) / (fixed + per_row * (rows + depth))

    return max(range(most + 1), key=speed)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("fixed", "per_row"), [(1.0, 0.0), (1.0, 0.05), (1.0, 0.3), (0.1, 1.0)])
@pytest.mark.parametrize("rows", [1, 8])
def test_the_depth_gives_the_most_tokens_a_second(fixed: float, per_row: float, rate: float, rows: int) -> None:
    speculation, acceptance = Speculation(8), acceptance_of(rate)
    for seen in (1, 5, 9, 3, 7) * 20:
        speculation.cost.observe(seen, fixed + per_row * seen)
    expected = best_by_trying(fixed, per_row, rows, rows - 1, acceptance.rate, 8)
    assert speculation.depth(rows, rows - 1, acceptance) == expected


def test_depths_at_the_ends() -> None:
    """Free rows and right drafts: all of them. A row as dear as a step, or drafts that are wrong: none."""
    for per_row, rate, expected in ((0.0, 1.0, 8), (1.0, 0.5, 0), (0.2, 0.0, 0)):
        speculation = Speculation(8)
        for seen in (1, 5, 9) * 20:
            speculation.cost.observe(seen, 0.01 + per_row * seen + (0 if per_row else 1))
        assert speculation.depth(1, 0, acceptance_of(rate)) == expected


def test_every_second_step_drafts_before_a_cost_is_known() -> None:
    speculation, acceptance = Speculation(8), Acceptance()
    depths = []
    for _ in range(6):
        acceptance.observe(0, 0)
        depths.append(speculation.depth(1, 0, acceptance))
        acceptance.observe(1, depths[-1])
        depths.append(speculation.depth(1, 0, acceptance))
    assert depths == [1, 0] * 6
    assert Speculation(0).depth(1, 0, acceptance) == 0


def test_after_a_right_trial_comes_another_until_the_rate_is_known() -> None:
    """A text that has become easy is noticed; drafts that are right and not worth their rows end soon."""
    for fixed, expected in ((1.0, True), (0.0, False)):
        speculation, acceptance = Speculation(8), acceptance_of(0.0)
        for seen in (1, 5, 9) * 20:
            speculation.cost.observe(seen, fixed + 0.6 * seen)
        depths = []
        for _ in range(600):
            depths.append(speculation.depth(1, 0, acceptance))
            acceptance.observe(depths[-1], depths[-1])
        assert (sum(depths[-200:]) > 150) == expected and (expected or sum(depths) < 60)


@pytest.mark.parametrize(("fixed", "per_row", "drafting_s"), [(9, 1, 0), (0, 1, 0), (1, 0.2, 2.0)])
def test_trials_take_a_hundredth_of_the_time(fixed: float, per_row: float, drafting_s: float) -> None:
    """And come no more often than each `PROBE` steps."""
    speculation, acceptance = Speculation(8), acceptance_of(0.0)
    for seen in (1, 5, 9) * 20:
        speculation.cost.observe(seen, fixed + per_row * seen)
    depths = []
    for _ in range(2000):
        depths.append(speculation.depth(1, 0, acceptance, lambda depth: drafting_s))
        acceptance.observe(0, depths[-1])
    assert set(depths) == {0, 1}
    share = sum(depths) * (per_row + drafting_s) / (2000 * (fixed + per_row))
    assert 0.005 < share <= 0.0101 or sum(depths) == 2000 // (PROBE + 1)
    assert sum(depths) <= 2000 // (PROBE + 1)
