"""Plans of a layer over ranks, against counts by hand and published ones."""

from __future__ import annotations

import pytest

from wavefold.config import ModelConfig
from wavefold.waves.predict import Machine, predict
from wavefold.waves.simulate import Link

FLASH, PRO = ModelConfig.preset("flash"), ModelConfig.preset("pro")
FAST_MEMORY = 1e15


@pytest.mark.parametrize(("ranks", "share"), [(4, 0.55), (8, 0.73), (16, 0.86)])
def test_rows_travel_once_to_a_rank(ranks: int, share: float) -> None:
    """R (1 - (1 - 1/R)^6) of six: experts fall on ranks nearly independently."""
    plan = predict(FLASH, ranks, 2000, Machine(1e12, FAST_MEMORY), Link(1e9), counts=[1])
    assert plan.copies == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("config", "balance"), [(FLASH, 4096), (PRO, 6144)])
def test_the_published_balance(config: ModelConfig, balance: int) -> None:
    """A byte a second hides 2 d operations: a pair is 6 h d of these, h bytes out (FP8) and 2 h back (bfloat16).

    Rows that travel once for several experts, scales and the rank's own tokens are ours; they are taken out again.
    """
    ranks, tokens = 8, 4000
    plan = predict(config, ranks, tokens, Machine(1.0, FAST_MEMORY), Link(1.0), counts=[1])
    pairs, hidden = tokens * config.num_experts_per_tok, config.hidden_size
    row = hidden + hidden // 128
    others = (ranks - 1) / ranks
    assert plan.sent_bytes == pytest.approx(others * pairs * (plan.copies * row + 2 * hidden), rel=0.02)
    operations_a_byte = plan.compute_s / (plan.link_s / others) / plan.imbalance
    assert operations_a_byte * (plan.copies * row / hidden + 2) / 3 == pytest.approx(balance, rel=0.02)


def test_what_binds() -> None:
    machine = Machine(380e9, 40e9)
    prompt = predict(FLASH, 2, 2048, machine, Link(1.25e8), counts=range(1, 33))
    assert prompt.limit == "products" and prompt.helps and prompt.waves.num_waves > 8
    assert prompt.bound_s < prompt.seconds < 1.1 * prompt.bound_s < prompt.naive_s
    slow = predict(FLASH, 2, 2048, machine, Link(1.25e7), counts=range(1, 33))
    assert slow.limit == "link" and slow.rho > 2 and slow.waves.num_waves < prompt.waves.num_waves
    decode = predict(FLASH, 2, 1, machine, Link(1.25e8, 50e-6))
    assert decode.limit == "memory"
    assert decode.memory_s == pytest.approx(len_used(2) * 3 * 4096 * 2048 * (0.5 + 1 / 32) / 40e9, rel=0.35)


def len_used(tokens: int) -> int:
    """Experts that so many tokens use, of the fuller of two ranks, about."""
    return tokens * 6 // 2 + 1


def test_favourites_fill_a_rank() -> None:
    plan = predict(FLASH, 4, 1000, Machine(1e12, FAST_MEMORY), Link(1e9), hot=3.0, counts=[1])
    assert plan.imbalance == pytest.approx(2.0, abs=0.15)  # 3 of 6 parts instead of 1 of 4, less what is drawn twice


def test_too_many_ranks() -> None:
    with pytest.raises(ValueError, match="1 to 256, the experts"):
        predict(FLASH, 300, 1, Machine(1.0, 1.0), Link(1.0))
