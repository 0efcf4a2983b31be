"""What training tells a pass, and what a block hands back beside its streams.

The model computes the same with and without one; it adds how indexed layers attend (`attention`) and takes the losses
that arise inside a block: the indexer's and the balance of the experts' load.
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
    """One for each pass over a batch.

    `attention`: "dense", indexed layers attend to all entries and the indexer rests; "warmup", the same while the
    indexer learns; "sparse", to its choice, and it learns on what it chose. `routes`: experts by layer [n, k] that
    replace the router's own choice (anticipatory routing). `balance` asks for the balance loss.
    """

    attention: AttentionStage = "sparse"
    balance: bool = False
    routes: Mapping[int, Tensor] | None = None
    index_losses: list[Tensor] = field(default_factory=list)
    balance_losses: list[Tensor] = field(default_factory=list)
    loads: dict[int, Tensor] = field(default_factory=dict)
    """Tokens that each expert of a layer with a learned router got, [experts]."""
    chosen: dict[int, Tensor] = field(default_factory=dict)
    """Each layer's experts [n, k], by layer with a learned router."""
    captured: dict[int, tuple[float, float]] = field(default_factory=dict)
    """By indexed layer: attention mass that the indexer's top-k holds of all on entries, summed over queries."""
    watch_capture: bool = False
    """Measure `captured`: attend densely, and see what the choice would have held."""

    def take(self) -> tuple[Tensor, Tensor]:
        """The sums of the losses since the last call: the indexer's, the balance."""
        losses = _sum(self.index_losses), _sum(self.balance_losses)
        self.index_losses, self.balance_losses = [], []
        return losses


def _sum(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).sum() if losses else torch.zeros(())
