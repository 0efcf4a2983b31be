"""Loss spikes, and anticipatory routing against them. Report section 4.2.3.

    spike      the run goes back to its last state and routes by anticipation for a while
    step t     features by the weights of step t; experts by those of step t - delta, which saw this batch ahead

A spike that feeds on itself goes through the router: new weights move tokens to experts that have not seen their like.
Choosing by weights of some steps ago takes the router out of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wavefold.data.batches import PackedBatch
from wavefold.waves.group import Group

MEMORY = 0.95
"""Share of the running mean that a step keeps."""
SETTLED = 20
"""Losses before a mean can be trusted."""
LASTS = 10
"""Anticipation lasts this many times delta."""


@dataclass
class Anticipation:
    """When to anticipate, and the experts that were chosen ahead: {step: {layer: ids [batch tokens, k]}}."""

    delta: int
    spike: float
    mean: float = 0.0
    seen: int = 0
    until: int = -1
    """The step from which routing is ordinary again."""
    routes: dict[int, dict[int, Tensor]] = field(default_factory=dict)

    def is_spike(self, loss: float, step: int) -> bool:
        """Whether the loss of this step calls for going back; never while routing is anticipated already."""
        return self.delta > 0 and step >= self.until and self.seen >= SETTLED and loss > self.spike * self.mean

    def watch(self, loss: float) -> None:
        """Take a step's loss into the mean."""
        self.mean = loss if not self.seen else MEMORY * self.mean + (1 - MEMORY) * loss
        self.seen += 1

    def begin(self, step: int) -> None:
        """Anticipate from this step on."""
        self.until = step + LASTS * self.delta
        self.routes.clear()

    def is_on(self, step: int) -> bool:
        return step < self.until

    def routes_of(self, step: int, packed: PackedBatch, group: Group) -> dict[int, Tensor] | None:
        """This process's rows of what was chosen ahead for a step's batch; None where nothing was."""
        routes = self.routes.pop(step, None)
        if routes is None:
            return None
        rows = rows_of_share(packed, group)
        return {layer: ids[rows] for layer, ids in routes.items()}

    def keep(self, step: int, chosen: dict[int, Tensor], packed: PackedBatch, group: Group) -> None:
        """Keep what each process chose for its share of a coming step's batch, for all of it."""
        rows = rows_of_share(packed, group)
        routes = {}
        for layer, ids in chosen.items():
            whole = ids.new_zeros(len(packed.tokens), ids.shape[1])
            whole[rows] = ids[: len(rows)]
            group.sum_([whole])
            routes[layer] = whole
        self.routes[step] = routes

    def record(self) -> dict[str, Any]:
        """What a state keeps beside `tensors`."""
        return {"mean": self.mean, "seen": self.seen, "until": self.until}

    def tensors(self) -> dict[str, Tensor]:
        """The routes, by "{step}.{layer}"."""
        return {f"{step}.{layer}": ids for step, routes in self.routes.items() for layer, ids in routes.items()}

    def restore(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take what `facts` and `tensors` gave."""
        self.mean, self.seen, self.until = record["mean"], record["seen"], record["until"]
        self.routes.clear()
        for name, ids in tensors.items():
            step, layer = map(int, name.split("."))
            self.routes.setdefault(step, {})[layer] = ids


def rows_of_share(packed: PackedBatch, group: Group) -> Tensor:
    """Which rows of the batch are this process's, in its order."""
    numbers = torch.arange(len(packed.tokens))
    return PackedBatch(numbers, numbers, packed.lengths).share(group.rank, group.size).tokens
