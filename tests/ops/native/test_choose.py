"""Tokens that the kernels choose are those that torch chooses, which other tests hold to definitions and transformers.

Both draw with the same number. Their sums differ by roundings: one draw in some 10^13 may differ, and a filter that
ends exactly where a sum does, which no setting here makes it do.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from wavefold import ops
from wavefold.engine.adjust import NONE, Adjustments
from wavefold.engine.choosing import Row, bits_of, by_torch, next_tokens
from wavefold.engine.defaults import GenerationDefaults
from wavefold.engine.sampling import ResolvedSampling, Sampling
from wavefold.ops.native import Choice, choose

pytestmark = pytest.mark.skipif(not ops.isas(), reason="the CPU kernels were not built")
FILTERS = [
    {}, {"temperature": 0.0}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_p": 0.9}, {"top_p": 0.01},
    {"top_k": 1}, {"top_k": 5}, {"top_k": 10**9}, {"min_p": 0.1}, {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.83, "min_p": 0.05}, {"temperature": 1e-300}, {"temperature": 1e3, "top_p": 0.5},
]  # fmt: skip
VOCABS = [1, 2, 31, 33, 64, 1000, 20_000]


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        assert ops.kernels_choose(torch.zeros(1, 1))
        yield


def row_of(number: int, prompt: Sequence[int], output: Sequence[int], adjustments: Adjustments = NONE, **values) -> Row:
    sampling = ResolvedSampling(
        **{"temperature": 1.0, "top_p": 1.0, "seed": 7, "max_tokens": 1, "fit_window": False, "eos_ids": ()} | values,
        adjustments=adjustments,
    )
    return Row(sampling, prompt, output, None, number)


def logits_of(num_rows: int, vocab: int, seed: int = 0, spread: float = 3) -> Tensor:
    return torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def check_equal(logits: Tensor, rows: list[Row]) -> list[int | None]:
    numbers = list(range(len(rows)))
    found = next_tokens(logits, rows, numbers)
    assert found == by_torch(logits, rows)
    return found


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_equal_torch(values: dict[str, float], vocab: int) -> None:
    num_rows = 2_000 if vocab < 100 else 60
    for spread in (0.1, 3, 30):
        rows = [row_of(number, [1] * 5, [], **values) for number in range(num_rows)]
        check_equal(logits_of(num_rows, vocab, vocab, spread), rows)


@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_equal_logits_and_forbidden_ones(values: dict[str, float]) -> None:
    """Many equal values, and most of a row at -inf."""
    logits = torch.randint(0, 3, (300, 500), generator=torch.Generator().manual_seed(1)).float()
    logits[:, 3::2] = -torch.inf
    found = check_equal(logits, [row_of(number, [1], [], **values) for number in range(300)])
    assert all(token is not None and (token < 3 or token % 2 == 0) for token in found)


def test_penalties_and_bias() -> None:
    generator = torch.Generator().manual_seed(3)
    asked = [
        Adjustments(1.3), Adjustments(0.7), Adjustments(presence_penalty=1.5), Adjustments(frequency_penalty=-0.5),
        Adjustments(1.1, -2.0, 2.0, {3: 5.0, 199: -100.0}), Adjustments(logit_bias={0: 100.0}), NONE,
    ]  # fmt: skip
    rows = []
    for number in range(700):
        prompt, output = (torch.randint(0, 200, (size,), generator=generator).tolist() for size in (30, number % 50))
        values = FILTERS[number % len(FILTERS)]
        rows.append(row_of(number, array("q", prompt), output, asked[number % len(asked)], **values))
    check_equal(logits_of(700, 200), rows)


def test_first_ids() -> None:
    rows = [row_of(n, [1], [], **FILTERS[n % 14])._replace(first_ids=(3, 5, 64, 10**6)) for n in range(200)]
    found = check_equal(logits_of(200, 100), rows)
    assert set(found) == {3, 5, 64}
    later = [row._replace(output=[2]) for row in rows]
    assert set(check_equal(logits_of(200, 100), later)) > {3, 5, 64}


def test_damaged_rows() -> None:
    logits = logits_of(6, 40)
    logits[1, 39], logits[2, 0], logits[3], logits[4, 7] = math.nan, math.inf, -math.inf, -math.inf
    for values in FILTERS:
        rows = [row_of(number, [1], [2], **values) for number in range(6)]
        found = check_equal(logits, rows)
        assert [token is None for token in found] == [False, True, True, True, False, False]
    only_forbidden = row_of(0, [1], [])._replace(first_ids=(7,))
    assert check_equal(logits[4:5], [only_forbidden]) == [None]


def test_a_row_is_chosen_alone_as_among_others() -> None:
    logits = logits_of(100, 3_000)
    rows = [row_of(number, [1], [], **FILTERS[number % 14]) for number in range(100)]
    together = next_tokens(logits, rows, range(100))
    for threads in (1, 2, 3):
        with ops.using(threads=threads):
            assert next_tokens(logits, rows, range(100)) == together
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert next_tokens(logits, [rows[n] for n in order], order) == [together[n] for n in order]
    assert [next_tokens(logits, [rows[n]], [n])[0] for n in range(100)] == together


def test_the_official_vocabulary() -> None:
    logits = logits_of(14, 129_280)
    check_equal(logits, [row_of(number, [1], [], **values) for number, values in enumerate(FILTERS)])


def test_a_bit_for_each_id() -> None:
    for vocab in (1, 31, 32, 33, 100):
        words = bits_of([0, vocab - 1, vocab], vocab)
        assert words.dtype == torch.int32 and len(words) == -(-vocab // 32)
        bits = [int(words[token // 32]) >> (token % 32) & 1 for token in range(vocab)]
        assert [token for token, bit in enumerate(bits) if bit] == sorted({0, vocab - 1})


def test_references_choose_without_kernels() -> None:
    logits, rows = logits_of(20, 50), [row_of(number, [1], []) for number in range(20)]
    with ops.using(backend="reference"):
        assert next_tokens(logits, rows, range(20)) == by_torch(logits, rows)
    assert next_tokens(logits.double(), rows, range(20)) == by_torch(logits, rows)


@pytest.mark.parametrize(
    "values",
    [
        {"row": 2}, {"row": -1}, {"seed": -1}, {"position": -1}, {"answer": 2**32}, {"filters": (-1.0, 1.0, 0, 0.0)},
        {"filters": (1.0, 0.0, 0, 0.0)}, {"filters": (1.0, 1.0, -1, 0.0)}, {"filters": (1.0, 1.0, 0, math.nan)},
        {"penalties": (0.0, 0.0, 0.0)}, {"penalties": (1.1, 0.0, 0.0), "output": [40]},
        {"penalties": (1.1, 0.0, 0.0), "prompt": [-1]}, {"bias": ([40], [1.0])},
        {"mask": torch.ones(1, dtype=torch.int32)},
    ],
    ids=str,
)  # fmt: skip
def test_out_of_range(values: dict[str, object]) -> None:
    usual = {
        "row": 0, "seed": 0, "position": 1, "answer": 0, "filters": (1.0, 1.0, 0, 0.0), "penalties": (1.0, 0.0, 0.0)
    }  # fmt: skip
    logits = logits_of(2, 40)
    assert choose(logits, [Choice.of(**usual)])[0] >= 0
    with pytest.raises(ValueError, match="the CPU kernels refused a call"):
        choose(logits, [Choice.of(**usual | values)])
    with pytest.raises(ValueError, match=r"logits \[2, 40\] of torch.float64; expected float32"):
        choose(logits.double(), [Choice.of(**usual)])


def test_sampling_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of `Sampling` that says how a token is chosen reaches the kernels."""
    from wavefold.config import ModelConfig

    sampling = Sampling(
        temperature=0.9, top_p=0.8, seed=3, top_k=9, min_p=0.01, repetition_penalty=1.2, presence_penalty=0.1,
        frequency_penalty=0.3, logit_bias={4: 2.0},
    )  # fmt: skip
    resolved = sampling.resolved(GenerationDefaults(), ModelConfig.preset("flash"))
    seen: list[Choice] = []
    monkeypatch.setattr(ops, "choose", lambda logits, choices: seen.extend(choices) or [1])
    assert next_tokens(logits_of(3, 40), [Row(resolved, [1, 2], [3], None, 5)], [2]) == [1]
    choice = seen[0]
    assert (choice.row, choice.seed, choice.position, choice.answer, choice.top_k) == (2, 3, 3, 5, 9)
    assert (choice.temperature, choice.top_p, choice.min_p, choice.biases) == (0.9, 0.8, 0.01, 1)
    penalties = torch.tensor([choice.repetition, choice.presence, choice.frequency])
    assert torch.equal(penalties, torch.tensor([1.2, 0.1, 0.3]))
