"""Which model answers next, so that models are swapped as rarely as can be.

    levels    [{model: rank}, ...], the highest priority first: the models that have lines there
    order     [(level, model), ...]: each model of each level once, levels one after another

A swap is each change of model along the order, beginning with the model that is loaded. Priorities win over swaps: a
level begins when the one before it is done. Within that rule the order is the best there is: a level ends, where it
can, with a model that the next one has too. Among equal orders the
loaded model, then the lowest ranks (the oldest batches) come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Level = Mapping[str, int]
"""Models that have lines of one priority, with their ranks."""


def num_swaps(models: Sequence[str], loaded: str | None) -> int:
    """Returns the number of swaps of a sequence of models. Nothing loaded: the first one is a swap too."""
    return sum(model != before for before, model in zip([loaded, *models], models, strict=False))


def best_order(levels: Sequence[Level], loaded: str | None) -> list[tuple[int, str]]:
    """Returns an order with the fewest swaps. O(models) a level, beside sorting."""
    levels = [level for level in levels if level]
    costs = _costs(levels)
    order: list[tuple[int, str]] = []
    for number, level in enumerate(levels):
        before = order[-1][1] if order else loaded
        first = _first(level, costs[number], before)
        models = _of_level(level, first, costs[number + 1] if number + 1 < len(levels) else {})
        order += [(number, model) for model in models]
    return order


def fewest_swaps(levels: Sequence[Level], loaded: str | None) -> int:
    """Returns the number of swaps of the best order."""
    return num_swaps([model for _, model in best_order(levels, loaded)], loaded)


def next_model(levels: Sequence[Level], loaded: str | None) -> str | None:
    """Returns the model that is next; None where no level has one."""
    order = best_order(levels, loaded)
    return order[0][1] if order else None


def _costs(levels: Sequence[Level]) -> list[dict[str, int]]:
    """Returns for each level: the swaps from there to the end, by the model that the level begins with."""
    costs: list[dict[str, int]] = []
    after: dict[str, int] = {}
    for level in reversed(levels):
        ends = _ends(level, after)
        best = min(ends, key=lambda last: ends[last])
        second = min((last for last in level if last != best), key=lambda last: ends[last], default=best)
        after = {first: len(level) - 1 + ends[second if first == best else best] for first in level}
        costs.append(after)
    return costs[::-1]


def _ends(level: Iterable[str], costs: Mapping[str, int]) -> dict[str, int]:
    """Returns the swaps after a level by the model that it ends with, where the next level has these costs."""
    another = min(costs.values(), default=-1) + 1
    return {last: min(another, costs.get(last, another)) for last in level}


def _first(level: Level, costs: Mapping[str, int], before: str | None) -> str:
    """Returns the model that a level begins with. Among equals the one that is loaded, then the lowest rank."""
    return min(level, key=lambda model: (costs[model] + (model != before), model != before, level[model], model))


def _of_level(level: Level, first: str, after: Mapping[str, int]) -> list[str]:
    """Returns the models of a level from `first` on: the last one is that which the next level goes on with best."""
    others = sorted((model for model in level if model != first), key=lambda model: (level[model], model))
    if others:
        ends = _ends(others, after)
        last = min(reversed(others), key=lambda model: ends[model])
        others.remove(last)
        others.append(last)
    return [first, *others]
