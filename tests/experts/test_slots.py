"""Slots by random orders of asking, pinning and leaving, and the experts that a circle of passes keeps."""

from __future__ import annotations

import random

import pytest

from wavefold.experts.slots import Slots


@pytest.mark.parametrize("seed", range(5))
def test_random_orders(seed: int) -> None:
    """A pinned expert never leaves, an expert has one slot, and a slot one expert."""
    draws = random.Random(seed)
    slots, pinned, where = Slots(7, 3), [], {}
    for _ in range(5000):
        key = draws.randrange(3), draws.randrange(12)
        slots.begin(key[0])
        if key in slots:
            assert slots.find(key) == where[key]
            slots.ask(key)
        else:
            taken = slots.take(key, draws.random() < 0.3)
            if taken is None:
                assert len(set(pinned)) == 7
            else:
                slot, left = taken
                assert left not in pinned
                if left is not None:
                    assert where.pop(left) == slot
                assert slot not in where.values()
                where[key] = slot
        if key in slots and draws.random() < 0.5 and len(pinned) < 9:
            slots.pin(key)
            pinned.append(key)
        while pinned and draws.random() < 0.5:
            slots.unpin(pinned.pop(draws.randrange(len(pinned))))
        if where and draws.random() < 0.05 and (key := draws.choice(sorted(where))) not in pinned:
            slots.drop(key)
            del where[key]
        assert len(slots) == len(where)
        assert slots.num_open() == 7 - len(set(pinned))


def test_a_circle_of_wide_passes_keeps_what_fits() -> None:
    """Half of the experts in memory: half are hits, where least recently used would have none."""
    slots, hits = Slots(16, 4), 0
    for lap in range(50):
        for layer in range(4):
            slots.begin(layer)
            for expert in range(8):
                if (layer, expert) in slots:
                    slots.ask((layer, expert))
                    hits += lap > 0
                else:
                    slots.take((layer, expert), True)
    assert hits >= 0.45 * 49 * 32


def test_experts_that_are_asked_for_more_often_stay() -> None:
    """Decoding: Zipf-like choices. Beside a store of the least recently used with the same slots."""
    draws, layers, experts = random.Random(1), 4, 64
    weights = [1 / (1 + rank) for rank in range(experts)]
    slots, recent, hits, recent_hits, asked = Slots(64, layers), dict[tuple[int, int], None](), 0, 0, 0
    for token in range(3000):
        for layer in range(layers):
            slots.begin(layer)
            for expert in set(draws.choices(range(experts), weights, k=4)):
                key, asked = (layer, (expert * 7 + layer) % experts), asked + (token > 500)
                if key in slots:
                    slots.ask(key)
                    hits += token > 500
                else:
                    slots.take(key)
                recent_hits += key in recent and token > 500
                recent.pop(key, None)
                recent[key] = None
                if len(recent) > 64:
                    del recent[next(iter(recent))]
    assert hits / asked > recent_hits / asked + 0.02 > 0.4


def test_askings_of_an_expert_that_left_are_remembered() -> None:
    """An expert that was asked for eight times comes back, and stays before one that was asked for nine times."""
    slots = Slots(2, 1)

    def pass_of(expert: int) -> None:
        slots.begin(0)
        if (0, expert) in slots:
            slots.ask((0, expert))
        else:
            slots.take((0, expert))

    for expert in (*[0] * 8, *[1] * 9, 2):
        pass_of(expert)
    assert (0, 0) not in slots
    for expert in (0, 0, 3, 4, 5):
        pass_of(expert)
    assert (0, 0) in slots


def test_an_expert_of_a_wide_pass_leaves_first_until_it_is_asked_for() -> None:
    slots = Slots(2, 1)
    for expert in (0, 0, 1):
        slots.begin(0)
        if (0, expert) in slots:
            slots.ask((0, expert))
        else:
            slots.take((0, expert), expert == 1)
    slots.begin(0)
    assert slots.take((0, 2), True) == (1, (0, 1))
    slots.ask((0, 2))
    slots.ask((0, 2))
    slots.begin(0)
    assert slots.take((0, 3)) == (0, (0, 0))
