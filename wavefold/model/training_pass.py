"""Input and output of a training pass beside tokens and streams.

The model computes the same with and without a TrainingPass. It sets how indexed layers attend (`attention`), and takes
the losses that arise inside a block: those of the indexer and of the balance of the experts' load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

AttentionStage = Literal["dense", "warmup", "sparse"]


@dataclass
class TrainingPass:
    """One pass over a batch.

    `attention`: "dense", indexed layers attend to all entries and the indexer rests; "warmup", the same while the
    indexer learns; "sparse", they attend to its choice, and it learns on the chosen entries. `routes`: experts by
    layer [n, k] that replace the router's choice (anticipatory routing). `balance` asks for the balance loss.
    """

    attention: AttentionStage = "sparse"
    balance: bool = False
    routes: Mapping[int, Tensor] | None = None
    index_losses: list[Tensor] = field(default_factory=list)
    balance_losses: list[Tensor] = field(default_factory=list)
    loads: dict[int, Tensor] = field(default_factory=dict)
    """By layer with a learned router: the number of tokens of each expert, [experts]."""
    chosen: dict[int, Tensor] = field(default_factory=dict)
    """By layer with a learned router: the chosen experts [n, k]."""
    captured: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By indexed layer: attention mass on the indexer's top-k entries, and on all entries, summed over queries."""
    watch_capture: bool = False
    """True to measure `captured`. With "dense" attention it is the mass that the choice would have held."""

    def take(self) -> tuple[Tensor, Tensor]:
        """Returns the sums of index losses and of balance losses since the last call."""
        losses = _sum(self.index_losses), _sum(self.balance_losses)
        self.index_losses, self.balance_losses = [], []
        return losses


def _sum(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum() if losses else torch.zeros(())
