"""The random numbers of requests: Random123's known answers, and how they depend on seed and position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from wavefold.engine.uniform import philox, uniform

ONES = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]  # fmt: skip
"""Counter, key, words: philox4x32-10 in Random123's kat_vectors."""


def by_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The paper's definition in Python's integers, which do not overflow."""
    a, b, c, d = counter
    first, second = key
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (right >> 32) ^ b ^ first, right & ONES, (left >> 32) ^ d ^ second, left & ONES
        first, second = (first + 0x9E3779B9) & ONES, (second + 0xBB67AE85) & ONES
    return a, b, c, d


def test_known_answers() -> None:
    """All three in one call: a row does not depend on the others."""
    counters, keys, words = (torch.tensor(column) for column in zip(*KNOWN, strict=True))
    assert torch.equal(torch.stack(philox(tuple(counters.T), tuple(keys.T)), 1), words)
    assert [by_integers(counter, key) for counter, key, _ in KNOWN] == [words for *_, words in KNOWN]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, ONES))
def test_uniform_is_the_first_53_bits(seed: int, position: int, index: int) -> None:
    high, low, _, _ = by_integers(
        (position & ONES, position >> 32, index, 0), (seed & ONES, seed >> 32)
    )  # fmt: skip
    expected = ((high >> 5) * 2**26 + (low >> 6)) / 2**53
    number = uniform(torch.tensor([seed]), torch.tensor([position]), index)
    assert number.dtype == torch.float64
    assert number.item() == expected < 1


def test_a_number_is_its_own() -> None:
    """The same in any batch; another for another seed, position or index."""
    seeds, positions = torch.arange(50).repeat_interleave(40), torch.arange(40).repeat(50)
    numbers = uniform(seeds, positions)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(seeds[order], positions[order]), numbers[order])
    assert torch.equal(uniform(seeds[7:8], positions[7:8]), numbers[7:8])
    others = [uniform(seeds, positions, 1), uniform(seeds, positions, torch.full((2000,), 2))]
    assert torch.cat([numbers, *others]).unique().numel() == 3 * 2000


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_distribution(along: str) -> None:
    """Uniform along both, and neighbours are independent: pairs fill a grid of 16 x 16 evenly."""
    count, zeros = torch.arange(200_000), torch.zeros(200_000, dtype=torch.int64)
    numbers = uniform(count, zeros) if along == "seeds" else uniform(zeros, count)
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-4
    cells = (numbers[::2] * 16).long() * 16 + (numbers[1::2] * 16).long()
    assert chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 1e-4
