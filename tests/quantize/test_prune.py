"""Fewer experts: who stays, and what tables of hashed layers say then."""

from __future__ import annotations

import pytest
import torch

from tests.small import SMALL
from wavefold.quantize.importance import Importance
from wavefold.quantize.prune import kept_experts, rerouted


def test_the_experts_that_add_the_most_stay() -> None:
    importance = Importance.empty(SMALL)
    importance.tokens += torch.tensor([1.0, 10.0, 2.0, 0.0])
    importance.norms[0] = torch.tensor([3.0, 10.0, 8.0, 0.0])  # means 3, 1, 4, 0
    importance.norms[1] = torch.tensor([1.0, 90.0, 1.0, 0.0])  # means 1, 9, 0.5, 0
    assert kept_experts(SMALL, importance, 2) == [[0, 2], [0, 1], [0, 1]]
    assert kept_experts(SMALL, importance, 4) == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("count", [1, 5])
def test_counts_that_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"expected 2 \(a token's experts\) to 4"):
        kept_experts(SMALL, Importance.empty(SMALL), count)


def test_a_lost_expert_becomes_the_most_alike_that_the_token_lacks() -> None:
    gate = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    table = torch.tensor([[1, 2], [1, 0], [3, 1], [0, 2], [3, 0]])
    # 1 is like 0, 3 is like 2; they have the new numbers 0 and 1
    assert rerouted(table, gate, [0, 2]).tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]]


def test_no_token_gets_an_expert_twice() -> None:
    random = torch.Generator().manual_seed(1)
    table = torch.stack([torch.randperm(16, generator=random)[:4] for _ in range(500)])
    kept = [1, 3, 4, 8, 15]
    new = rerouted(table, torch.randn(16, 8, generator=random), kept)
    assert all(len(set(row)) == 4 for row in new.tolist())
    stays = torch.isin(table, torch.tensor(kept))
    assert (torch.tensor(kept)[new][stays] == table[stays]).all()
