"""Penalties and biases of rows that differ: transformers' processors, and a loop over tokens in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from wavefold.engine.adjust import NONE, Adjustments, adjusted

VOCAB = 40
RANDOM = np.random.default_rng(0)


def logits_of(num_rows: int) -> Tensor:
    return torch.from_numpy(RANDOM.normal(0, 3, (num_rows, VOCAB)).astype(np.float32))


def tokens_of(length: int) -> list[int]:
    return RANDOM.integers(0, VOCAB, length).tolist()


ROWS = [
    NONE, Adjustments(1.3), Adjustments(0.7), Adjustments(presence_penalty=1.5), Adjustments(frequency_penalty=-0.5),
    Adjustments(1.1, -2.0, 2.0, {3: 5.0, 39: -100.0}), Adjustments(logit_bias={0: 100.0}), Adjustments(2.0, 0.5, 0.25),
]  # fmt: skip


def by_definition(logits: list[float], asked: Adjustments, prompt: list[int], output: list[int]) -> list[float]:
    found = list(logits)
    for token in range(len(found)):
        if token in prompt or token in output:
            penalty = asked.repetition_penalty
            found[token] = found[token] * penalty if found[token] < 0 else found[token] / penalty
        count = output.count(token)
        found[token] -= asked.frequency_penalty * count
        found[token] -= asked.presence_penalty if count else 0
        found[token] += asked.logit_bias.get(token, 0)
    return found


def test_rows_by_definition() -> None:
    """Float32 against float64: at most four roundings of values up to a hundred."""
    for length in (0, 1, 30):
        logits = logits_of(len(ROWS))
        prompts, outputs = [tokens_of(9) for _ in ROWS], [tokens_of(length) for _ in ROWS]
        found = adjusted(logits, ROWS, prompts, outputs)
        assert found.dtype == torch.float32
        rows = zip(logits.double().tolist(), ROWS, prompts, outputs, strict=True)
        torch.testing.assert_close(
            found.double(), torch.tensor([by_definition(*row) for row in rows]).double(), rtol=1e-6, atol=2e-5
        )
        assert torch.equal(found[0], logits[0])
        for row, asked in enumerate(ROWS):  # alone: the same bits
            one = slice(row, row + 1)
            assert torch.equal(adjusted(logits[one], [asked], prompts[one], outputs[one]), found[one])


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 3.0])
def test_repetition_is_transformers(penalty: float) -> None:
    logits, prompts, outputs = logits_of(20), [tokens_of(5) for _ in range(20)], [tokens_of(7) for _ in range(20)]
    ids = torch.cat([torch.tensor(prompts), torch.tensor(outputs)], 1)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(adjusted(logits, [Adjustments(penalty)] * 20, prompts, outputs), expected)


def test_bias_is_transformers() -> None:
    logits, bias = logits_of(5), {0: 2.5, 7: -3.0, 39: 100.0}
    processor = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    expected = processor(torch.zeros(5, 1, dtype=torch.int64), logits.clone())
    found = adjusted(logits, [Adjustments(logit_bias=bias)] * 5, [[1]] * 5, [[]] * 5)
    assert torch.equal(found, expected)


def test_a_token_that_must_not_be_chosen_stays_so() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    found = adjusted(logits, [Adjustments(1.5, -2.0, -2.0, {1: 100.0})], [[1]], [[1, 1]])
    assert found[0, 1] == -torch.inf and found[0, [0, 2]].tolist() == [1.0, 2.0]
