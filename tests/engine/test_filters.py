"""Filters and draws of rows that differ: transformers' warpers, float64 in numpy, a chi-square test, any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from wavefold.engine import sampler
from wavefold.engine.sampler import Filters, choose, distribution, sample
from wavefold.engine.uniform import uniform

VOCAB = 60
KEPT = sampler._kept
SETTINGS = [
    (1.0, 1.0, 0, 0.0), (0.7, 1.0, 5, 0.0), (1.3, 0.8, 0, 0.0), (1.0, 1.0, 0, 0.1), (0.9, 0.7, 12, 0.0),
    (2.0, 0.9, 40, 0.05), (1.0, 0.5, 3, 0.3), (0.2, 0.99, 1000, 0.001), (1.0, 0.01, 0, 0.0), (5.0, 1.0, 1, 1.0),
    (0.0, 0.5, 3, 0.1), (1.0, 1.0, 7, 0.2),
]  # fmt: skip
"""(temperature, top_p, top_k, min_p)."""
ROUNDING = 1e-5
"""Of probabilities, relative: a logit's distance from the largest, here up to 20, is rounded to float32 (2^-24) and
divided by a temperature of 0.2 or more, which makes 6e-6."""


def logits_of(num_rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def seeded(num_rows: int) -> Tensor:
    return torch.rand(num_rows, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_definition(logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float) -> np.ndarray:
    """One token after another in float64, as the sentences of `Filters` say it."""
    exact = logits.astype(np.float64)
    if temperature == 0:
        return np.eye(len(exact))[exact.argmax()]
    weights = np.exp((exact - exact.max()) / temperature)
    kept = sorted(range(len(exact)), key=lambda token: (-exact[token], token))
    if top_k:
        kept = kept[:top_k]
    if top_p < 1:
        total, mass, nucleus = sum(weights[token] for token in kept), 0.0, []
        for token in kept:
            if mass >= top_p * total:
                break
            nucleus.append(token)
            mass += weights[token]
        kept = nucleus
    kept = [token for token in kept if weights[token] >= min_p * weights[kept[0]]]
    probabilities = np.zeros(len(exact))
    probabilities[kept] = weights[kept]
    return probabilities / probabilities.sum()


def test_distribution_by_definition() -> None:
    """All settings in one batch."""
    for seed in range(20):
        logits = logits_of(len(SETTINGS), seed)
        found = distribution(logits, Filters.of(SETTINGS)).numpy()
        for row, setting in enumerate(SETTINGS):
            expected = by_definition(logits[row].numpy(), *setting)
            assert ((found[row] > 0) == (expected > 0)).all(), f"{setting} keeps other tokens"
            np.testing.assert_allclose(found[row], expected, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[0]], ids=str)
def test_transformers_keeps_the_same_tokens(setting: tuple[float, float, int, float]) -> None:
    """Its warpers one after another, on float64 logits without equal ones."""
    temperature, top_p, top_k, min_p = setting
    logits, ids = logits_of(50, 3), torch.zeros(50, 1, dtype=torch.int64)
    warpers = [TemperatureLogitsWarper(temperature)]
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    scores = logits.double()
    for warper in warpers:
        scores = warper(ids, scores)
    found = distribution(logits, Filters.same(50, *setting))
    torch.testing.assert_close(found, scores.softmax(-1), rtol=ROUNDING, atol=0)


def min_p_first(probabilities: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    largest = probabilities.amax(-1, keepdim=True)
    probabilities = probabilities.masked_fill(probabilities < filters.min_p[:, None] * largest, 0)
    return KEPT(probabilities / probabilities.sum(-1, keepdim=True), filters)


def top_p_of_all(probabilities: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    """The share is not of what top-k kept."""
    everything = filters._replace(top_k=torch.zeros_like(filters.top_k))
    ordered, order = KEPT(probabilities, everything)
    number = torch.arange(ordered.shape[-1])
    return ordered.masked_fill((filters.top_k[:, None] > 0) & (number >= filters.top_k[:, None]), 0), order


def one_more(probabilities: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    return KEPT(probabilities, filters._replace(top_k=filters.top_k + (filters.top_k > 0)))


def no_filter(probabilities: Tensor, filters: Filters) -> tuple[Tensor, Tensor]:
    return probabilities.sort(descending=True, stable=True)


@pytest.mark.parametrize("mutant", [min_p_first, top_p_of_all, one_more, no_filter])
def test_a_wrong_filter_is_seen(mutant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_kept", mutant)
    with pytest.raises(AssertionError, match="keeps other tokens"):
        test_distribution_by_definition()


def test_equal_logits_are_kept_by_id() -> None:
    """transformers keeps all that equal the last one kept; here as many as were asked for."""
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    found = distribution(logits, Filters.of([(1.0, 1.0, 2, 0.0)]))
    assert found.tolist() == [[0.0, 0.5, 0.5, 0.0]]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_draws_follow_the_distribution(setting: tuple[float, float, int, float]) -> None:
    logits, draws = logits_of(1, 5), 20_000
    filters = Filters.same(draws, *setting)
    positions = torch.arange(draws)
    ids = choose(logits.expand(draws, -1), filters, uniform(torch.full_like(positions, 9), positions))
    exact = by_definition(logits[0].numpy(), *setting)
    counts = torch.bincount(ids, minlength=VOCAB).numpy()
    assert counts[exact == 0].sum() == 0
    often = exact * draws >= 5  # as the test asks for; the others are one class
    observed = [*counts[often], counts[~often].sum()]
    expected = [*(exact[often] * draws), exact[~often].sum() * draws]
    if expected[-1] < 1e-9:
        observed, expected = observed[:-1], expected[:-1]
    assert len(expected) == 1 or chisquare(observed, expected).pvalue > 1e-4


def test_a_row_depends_on_its_own_alone() -> None:
    """Bit for bit: in any order, alone, among others with other filters."""
    num_rows = 10 * len(SETTINGS)
    logits, numbers = logits_of(num_rows), seeded(num_rows)
    filters = Filters.of(SETTINGS * 10)
    ids, probabilities = choose(logits, filters, numbers), distribution(logits, filters)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(2))
    moved = Filters(*(value[order] for value in filters))
    assert torch.equal(choose(logits[order], moved, numbers[order]), ids[order])
    assert torch.equal(distribution(logits[order], moved), probabilities[order])
    for row in range(num_rows):
        one = slice(row, row + 1)
        alone = Filters(*(value[one] for value in filters))
        assert torch.equal(choose(logits[one], alone, numbers[one]), ids[one])


def test_a_request_draws_the_same_tokens_whatever_runs_beside_it() -> None:
    """Chains of tokens whose logits follow from the token before, in lockstep and one by one, from other lengths on."""
    table = logits_of(VOCAB, 7)
    seeds, lengths = torch.tensor([5, 6, 5, 2**62]), torch.tensor([1, 4, 1, 9])
    rows = [SETTINGS[0], SETTINGS[5], SETTINGS[0], SETTINGS[4]]

    def answers(chosen: list[int], num_tokens: int) -> list[list[int]]:
        last, filters = torch.tensor([lengths[i] for i in chosen]), Filters.of([rows[i] for i in chosen])
        tokens = []
        for step in range(num_tokens):
            last = choose(table[last], filters, uniform(seeds[chosen], lengths[chosen] + step))
            tokens.append(last)
        return torch.stack(tokens, 1).tolist()

    together = answers([0, 1, 2, 3], 50)
    assert together[0] == together[2] != together[1]
    for request in (0, 1, 3):
        assert answers([request], 50) == [together[request]]
    assert answers([3, 1], 50) == [together[3], together[1]]


def test_sample_is_a_batch_of_rows_that_are_alike() -> None:
    logits = logits_of(30)
    for setting in SETTINGS[1:10]:
        temperature, top_p, top_k, min_p = setting
        numbers = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        ids = sample(logits, temperature, top_p, torch.Generator().manual_seed(4), top_k, min_p)
        assert torch.equal(ids, choose(logits, Filters.same(30, *setting), numbers))


@settings(max_examples=200)
@given(
    logits=st.lists(st.floats(-1e4, 1e4) | st.just(float("-inf")), min_size=1, max_size=8),
    setting=st.tuples(st.floats(0, 1e3), st.floats(0, 1, exclude_min=True), st.integers(0, 10), st.floats(0, 1)),
    number=st.floats(0, 1, exclude_max=True),
)
def test_any_logits_give_a_possible_token(
    logits: list[float], setting: tuple[float, float, int, float], number: float
) -> None:
    if max(logits) == float("-inf"):
        return
    rows, filters = torch.tensor([logits]), Filters.of([setting])
    token = int(choose(rows, filters, torch.tensor([number], dtype=torch.float64)))
    probabilities = distribution(rows, filters)[0]
    assert probabilities[token] > 0 and abs(float(probabilities.sum()) - 1) < 1e-12
    assert logits[token] > float("-inf")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ((1.0, 1.0, -1, 0.0), r"top_k = -1 is not allowed; expected a whole number from 0 \(all tokens\) to 2\^63 - 1"),
        ((1.0, 1.0, 0, 1.1), "min_p = 1.1 is not allowed; expected a number from 0 to 1"),
        ((1.0, 1.0, 0, float("nan")), "min_p = nan is not allowed"),
    ],
)
def test_out_of_range(setting: tuple[float, float, int, float], message: str) -> None:
    temperature, top_p, top_k, min_p = setting
    with pytest.raises(ValueError, match=message):
        sample(logits_of(1), temperature, top_p, None, top_k, min_p)
