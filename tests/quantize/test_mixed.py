"""The choice of types under a budget, against all choices."""

from __future__ import annotations

import itertools
import random

import pytest

from wavefold.quantize.mixed import UNITS, Option, choose, useful_options


def options(seed: int) -> dict[tuple[int, str], list[Option]]:
    draw = random.Random(seed)
    return {
        (layer, matrix): [Option(f"t{i}", draw.randrange(1, 60) * UNITS, draw.random()) for i in range(4)]
        for layer in range(2)
        for matrix in ("w1", "w2", "w3")
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_no_choice_of_as_many_bytes_loses_less(seed: int, share: float) -> None:
    choices = options(seed)
    least = sum(min(o.num_bytes for o in place) for place in choices.values())
    most = sum(max(o.num_bytes for o in place) for place in choices.values())
    budget = int(least + share * (most - least)) // UNITS * UNITS
    chosen = choose(choices, budget)
    assert sum(o.num_bytes for o in chosen.values()) <= budget
    best = min(
        sum(o.loss for o in combination)
        for combination in itertools.product(*choices.values())
        if sum(o.num_bytes for o in combination) <= budget
    )
    assert sum(o.loss for o in chosen.values()) == pytest.approx(best)
    assert list(chosen) == list(choices)


def test_a_budget_below_the_smallest_is_refused() -> None:
    choices = options(0)
    least = sum(min(o.num_bytes for o in place) for place in choices.values())
    with pytest.raises(ValueError, match=f"{least:,} bytes at least"):
        choose(choices, least - 1)
    assert sum(o.num_bytes for o in choose(choices, least).values()) == least


def test_beaten_options_are_left_out() -> None:
    a, b, c = Option("a", 10, 0.5), Option("b", 20, 0.6), Option("c", 30, 0.1)
    assert useful_options([c, b, a]) == [a, c]
