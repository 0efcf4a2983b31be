"""Look-up drafts, and how many of them are worth their rows."""

from __future__ import annotations

from random import Random

import pytest

from wavefold.engine.lookup import KINDS, LONGEST, MOST_TRIED, SHORTEST, Lookup, LookupDrafts, propose
from wavefold.engine.proposer import Text
from wavefold.engine.request import Request
from wavefold.engine.speculation import FAILS, LONGEST_PAUSE, Acceptance, Speculation, StepCost
from wavefold.engine.trials import PROBE, PROBE_SHARE, Trials


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


@pytest.mark.parametrize("length", range(SHORTEST, LONGEST + 3))
def test_the_length_of_a_match_is_counted(length: int) -> None:
    """Up to LONGEST; the text before the match is another one."""
    run = list(range(100, 100 + length))
    match = Lookup().match([1, *run, 7, 8, 2, *run])
    assert match == (1 + length, min(length, LONGEST))


def test_among_few_earlier_places_the_longest_match_is_taken() -> None:
    """The last MOST_TRIED of them are compared."""
    far, near = [5, 6, 1, 2, 30], [9, 1, 2, 40]
    for count, expected in ((MOST_TRIED - 1, 30), (MOST_TRIED, 40)):
        assert list(propose([*far, *near * count, 5, 6, 1, 2], 1)) == [expected]


def test_a_longer_match_is_another_kind() -> None:
    proposer = LookupDrafts()
    kinds = []
    for length in range(1, LONGEST + 1):
        request = Request(length, [*range(length), 50, 60, *range(length)], 8)
        text = Text(request, None)  # type: ignore[arg-type]
        text.read()
        kinds.append(proposer.kind(text))
    assert kinds[0] is None and kinds[1] == 0 and kinds[-1] == len(KINDS) - 1
    assert kinds[1:] == sorted(kinds[1:])  # type: ignore[type-var]


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
    speculation = Speculation(8)
    depths = []
    for _ in range(12):
        depths.append(speculation.depth(1, 0, Acceptance()))
        speculation.observe(0, 0.0)
    assert depths == [0, 1] * 6
    assert Speculation(0).depth(1, 0, Acceptance()) == 0


def trials_of(
    speculation: Speculation, acceptance: Acceptance, steps: int, right: bool, drafting_s: float
) -> list[int]:
    """The numbers of drafts, one at most, of steps of a text; all are right or none."""
    trials, tried, depths = Trials(), 0, []
    for _ in range(steps):
        waited = speculation.now - tried
        depth = min(1, speculation.depth(1, 0, acceptance, lambda depth: drafting_s * depth))
        depth = depth or int(speculation.is_trial(trials, waited, acceptance, drafting_s, 0.0))
        if depth:
            acceptance.observe(int(right), 1, waited)
            tried = speculation.now
        depths.append(depth)
        fixed, per_row = speculation.cost.line or (0, 0)
        speculation.observe(0, fixed + per_row * (1 + depth) + depth * drafting_s)
    return depths


def speculation_of(fixed: float, per_row: float) -> Speculation:
    """One that knows what steps cost."""
    speculation = Speculation(8)
    for seen in (1, 5, 9) * 20:
        speculation.cost.observe(seen, fixed + per_row * seen)
    return speculation


def test_after_a_right_trial_comes_another_until_the_rate_is_known() -> None:
    """A text that has become easy is noticed; drafts that are right and not worth their rows end soon."""
    for fixed, expected in ((1.0, True), (0.0, False)):
        depths = trials_of(speculation_of(fixed, 0.6), acceptance_of(0.0), 600, True, 0)
        assert (sum(depths[-200:]) > 150) == expected and (expected or sum(depths) < 60)


@pytest.mark.parametrize(("fixed", "per_row", "drafting_s"), [(9, 1, 0), (0, 1, 0), (1, 0.2, 2.0)])
def test_trials_take_a_hundredth_of_the_time(fixed: float, per_row: float, drafting_s: float) -> None:
    """And come no more often than each `PROBE` steps."""
    depths = trials_of(speculation_of(fixed, per_row), acceptance_of(0.0), 2000, False, drafting_s)
    assert set(depths) == {0, 1}
    share = (sum(depths) - 1) * (per_row + drafting_s) / (2000 * (fixed + per_row))  # the first comes before it is paid
    assert 0.005 < share <= 0.0101 or sum(depths) == 2000 // PROBE
    assert sum(depths) <= 2000 // PROBE


def test_a_rest_lasts_until_the_trials_before_are_paid() -> None:
    trials = Trials()
    trials.pay(5.0, 0.2)
    until = 5.0 + 0.2 / PROBE_SHARE
    assert trials.steps_until(5.0, 3, 0.5) == round((until - 5.0) / 0.5)
    assert not trials.due(until - 0.1, 10**6) and trials.due(until + 0.1, PROBE) and not trials.due(until, PROBE - 1)
    assert trials.steps_until(until, 3, 0.5) == PROBE - 3 and trials.steps_until(until, 100, 0.5) == 0


def test_pauses_grow_with_fails() -> None:
    speculation = speculation_of(1, 1)
    assert [speculation.pause(fails) for fails in (0, FAILS - 1, FAILS, 3 * FAILS, 10**6)] == [
        0,
        0,
        1,
        3,
        LONGEST_PAUSE,
    ]
    assert Speculation(8).pause(10**6) == 0, "no cost is known yet"
