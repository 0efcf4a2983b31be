"""Sampling: the distribution by a chi-square test, its edges, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from wavefold.engine import sample

LOGITS = torch.tensor([2.0, 0.0, -1.0, 1.0, float("-inf"), 0.5])
DRAWS = 20_000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(temperature: float, top_p: float) -> Tensor:
    ids = sample(LOGITS.expand(DRAWS, -1), temperature, top_p, seeded(0))
    return torch.bincount(ids, minlength=len(LOGITS))


def p_value(seen: Tensor, probabilities: Tensor) -> float:
    possible = probabilities > 0
    assert int(seen[~possible].sum()) == 0
    if int(possible.sum()) == 1:
        return 1.0
    expected = probabilities[possible] / probabilities.sum() * DRAWS
    return float(chisquare(seen[possible].double(), expected).pvalue)


def nucleus(temperature: float, top_p: float) -> Tensor:
    """The definition, one token after another: the most likely ones until they have `top_p`."""
    probabilities = (LOGITS.double() / temperature).softmax(-1)
    kept, mass = torch.zeros_like(probabilities), 0.0
    for token in sorted(range(len(LOGITS)), key=lambda token: -probabilities[token]):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += float(probabilities[token])
    return kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.7, 0.3])
def test_distribution(temperature: float, top_p: float) -> None:
    seen = counts(temperature, top_p)
    assert p_value(seen, nucleus(temperature, top_p)) > 1e-4


def test_the_distribution_test_sees_a_small_mistake() -> None:
    assert p_value(counts(1.0, 1.0), nucleus(1.1, 1.0)) < 1e-6


def test_temperature_zero_takes_the_first_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [5.0, float("-inf"), 1.0]])
    assert sample(logits, temperature=0).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 7)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_shapes(shape: tuple[int, ...], temperature: float) -> None:
    ids = sample(torch.randn(shape, generator=seeded(0)), temperature, 0.9, seeded(1))
    assert (ids.shape, ids.dtype) == (shape[:-1], torch.int64)


def test_one_random_number_for_each_row() -> None:
    """Whatever the temperature, top_p and vocabulary, the generator moves on by as much."""
    after = []
    for vocab, temperature, top_p in ((5, 1.0, 1.0), (5000, 0.3, 1.0), (50, 2.0, 0.4)):
        generator = seeded(3)
        sample(torch.zeros(vocab), temperature, top_p, generator)
        after.append(torch.rand(1, generator=generator).item())
    assert len(set(after)) == 1


def test_bfloat16_logits_are_computed_in_float32() -> None:
    logits = torch.randn(1000, generator=seeded(0)).bfloat16()
    assert sample(logits, 0.7, 0.9, seeded(1)) == sample(logits.float(), 0.7, 0.9, seeded(1))


@given(
    logits=st.lists(st.floats(-1e4, 1e4) | st.just(float("-inf")), min_size=1, max_size=8),
    temperature=st.floats(0, 1e3),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 1000),
)
def test_any_logits_give_a_possible_token(logits: list[float], temperature: float, top_p: float, seed: int) -> None:
    if max(logits) == float("-inf"):
        return
    token = int(sample(torch.tensor(logits), temperature, top_p, seeded(seed)))
    assert 0 <= token < len(logits)
    assert logits[token] > float("-inf")


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature = {temperature} is not allowed; expected a number from 0 "):
        sample(LOGITS, temperature)


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.01, float("nan")])
def test_top_p_out_of_range(top_p: float) -> None:
    with pytest.raises(ValueError, match=f"top_p = {top_p} is not allowed; expected a number above 0, at most 1"):
        sample(LOGITS, 1.0, top_p)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits(bad: float, temperature: float) -> None:
    with pytest.raises(ValueError, match="the logits are NaN or infinite"):
        sample(torch.tensor([0.0, bad, 1.0]), temperature)
    with pytest.raises(ValueError, match="the logits are NaN or infinite"):
        sample(torch.full((3,), float("-inf")), temperature)
