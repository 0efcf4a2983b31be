"""Standard errors against those that repeated sampling has, and against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from wavefold.quality.statistics import Difference, Figure, figure_of, grouped_share_of, share_of


def test_a_mean_has_the_error_that_scipy_gives():
    values = np.random.default_rng(0).normal(3, 2, 50).tolist()
    figure = figure_of("p", "f", "all", [(value, 1) for value in values])
    assert figure.value == pytest.approx(np.mean(values))
    assert figure.se == pytest.approx(stats.sem(values))


def test_a_ratio_has_the_spread_of_repeated_samples():
    """Blocks of different sizes, whose sum depends on their size: 2,000 samples of 60 blocks."""
    rng = np.random.default_rng(1)
    ratios, errors = [], []
    for _ in range(2000):
        den = rng.integers(50, 200, 60).astype(float)
        num = den * rng.normal(2, 0.3, 60)
        figure = figure_of("p", "f", "all", list(zip(num, den, strict=True)))
        ratios.append(figure.value)
        errors.append(figure.se)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.06)


def test_a_share_of_cases_that_are_alike_has_an_error():
    figure = share_of("p", "f", "all", [True] * 10)
    assert figure.value == 1 and figure.se == pytest.approx(math.sqrt(12 / 14 * 2 / 14 / 14))


def test_pairs_have_the_error_of_their_differences():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 5, 40), rng.normal(0, 0.1, 40)
    second = first + 0.3 + second
    one, two = (figure_of("p", "f", "all", [(float(x), 1) for x in values]) for values in (first, second))
    expected = stats.ttest_rel(second, first)
    difference = Difference(one, two)
    assert difference.errors == pytest.approx(expected.statistic)


def test_samples_of_different_sizes_are_not_paired():
    one, two = (figure_of("p", "f", "all", [(float(n % 3), 1) for n in range(count)]) for count in (9, 14))
    assert Difference(one, two).se == pytest.approx(math.hypot(one.se, two.se))


def test_nothing_that_changed_is_no_error_at_all():
    figure = Figure("p", "f", "all", (1.0, 2.0), (1.0, 1.0))
    assert Difference(figure, figure).errors == 0


def test_one_group_says_nothing_of_its_error():
    assert math.isnan(figure_of("p", "f", "all", [(1, 2)]).se)
    assert figure_of("p", "f", "all", [(1, 2)]).values()["se"] is None
    assert figure_of("p", "f", "all", [(0, 0)]) is None


def test_draws_of_a_case_are_one_group():
    """By hand: 3 of 6 answers, cases off by 1, 0 and -1 of 6: sqrt(3/2 * 2/36)."""
    figure = grouped_share_of("p", "f", "all", [[True, True], [True, False], [False, False]])
    assert figure.value == 0.5 and figure.is_share
    assert figure.se == pytest.approx(math.sqrt(1 / 12))


def test_draws_add_no_cases():
    """10 cases with answers all alike within a case: as many draws as one likes say no more than one."""
    cases = [[True], [True], [False], [True], [False], [False], [True], [True], [True], [False]]
    errors = {draws: grouped_share_of("p", "f", "all", [case * draws for case in cases]).se for draws in (2, 8)}
    assert errors[2] == errors[8] == pytest.approx(stats.sem([float(case[0]) for case in cases]))


def test_groups_that_are_alike_have_the_error_of_as_many_cases():
    whole = grouped_share_of("p", "f", "all", [[True, True]] * 10)
    assert whole.se == share_of("p", "f", "all", [True] * 10).se > 0
    none = grouped_share_of("p", "f", "all", [[False, False]] * 10)
    assert abs(Difference(whole, none).errors) > 3
    assert math.isnan(grouped_share_of("p", "f", "all", [[True, True]]).se)
