"""The order of models beside all orders that there are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from wavefold.jobs.order import Level, best_order, fewest_swaps, next_model, num_swaps


def all_orders(levels: list[Level]) -> Iterator[list[str]]:
    for parts in itertools.product(*(itertools.permutations(level) for level in levels)):
        yield list(itertools.chain.from_iterable(parts))


@pytest.mark.parametrize("seed", range(6))
def test_no_order_has_fewer_swaps(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        models = "ABCD"[: rng.randint(1, 4)]
        levels: list[Level] = [
            {model: rng.randrange(9) for model in rng.sample(models, rng.randint(1, len(models)))}
            for _ in range(rng.randint(1, 3))
        ]
        loaded = rng.choice([None, *models, "other"])
        order = best_order(levels, loaded)
        assert [level for level, _ in order] == sorted(level for level, _ in order)
        assert sorted(order) == sorted((number, model) for number, level in enumerate(levels) for model in level)
        best = min(num_swaps(models, loaded) for models in all_orders(levels))
        assert fewest_swaps(levels, loaded) == num_swaps([model for _, model in order], loaded) == best


def test_swaps_are_counted() -> None:
    assert num_swaps([], "A") == num_swaps(["A", "A"], "A") == 0
    assert num_swaps(["A", "B", "B", "A"], None) == 3


def test_the_loaded_model_goes_on() -> None:
    assert next_model([{"A": 0, "B": 1}], "B") == "B"
    assert next_model([{"A": 1, "B": 0}], "C") == "B"
    assert next_model([{"A": 0, "B": 1}, {"B": 0}], "B") == "B"  # as many swaps as with A first
    assert next_model([{"A": 0}, {"B": 1}], "B") == "A"  # a higher priority wins
    assert next_model([], "A") is None and next_model([{}, {"A": 0}], None) == "A"


def test_a_level_ends_with_what_the_next_one_goes_on_with() -> None:
    order = best_order([{"A": 0, "B": 1, "C": 2}, {"A": 0, "D": 1}], None)
    assert [model for _, model in order] == ["B", "C", "A", "A", "D"]


def test_many_models_and_levels_are_quick_to_order() -> None:
    levels = [{f"model {number}": number for number in range(40)} for _ in range(200)]
    assert fewest_swaps(levels, None) == 40 + 199 * 39
