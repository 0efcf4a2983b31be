"""Loss spikes, and anticipatory routing against them. Report section 4.2.3.

    spike      the run goes back to its last state of `save_every` and routes by anticipation for a while
    step t     features by the weights of step t; experts by those of step t - delta, which saw this batch ahead

A loss far above its running mean is a spike, as are gradients whose norm is not finite. A spike that feeds on itself
goes through the router: new weights send tokens to experts that were not trained on similar ones. Choosing experts by
the weights of some steps ago takes the router out of the loop.
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
"""Number of losses before the mean is trusted."""
LASTS = 10
"""Anticipation lasts this many times `delta` steps."""


@dataclass
class Anticipation:
    """Decides when to anticipate. Keeps the experts chosen ahead: {step: {layer: ids [batch tokens, k]}}."""

    delta: int
    spike: float
    mean: float = 0.0
    seen: int = 0
    until: int = -1
    """The step from which routing is ordinary again."""
    routes: dict[int, dict[int, Tensor]] = field(default_factory=dict)

    def is_spike(self, loss: float, step: int) -> bool:
        """True if the run must go back because of this loss. Never True while routing is anticipated."""
        return self.delta > 0 and step >= self.until and self.seen >= SETTLED and loss > self.spike * self.mean

    def watch(self, loss: float) -> None:
        """Adds the loss of a step to the mean."""
        self.mean = loss if not self.seen else MEMORY * self.mean + (1 - MEMORY) * loss
        self.seen += 1

    def begin(self, step: int) -> None:
        """Starts anticipation at this step."""
        self.until = step + LASTS * self.delta
        self.routes.clear()

    def is_on(self, step: int) -> bool:
        return step < self.until

    def routes_of(self, step: int, packed: PackedBatch, group: Group) -> dict[int, Tensor] | None:
        """Returns the experts chosen ahead for the local rows of a batch, or None if none were chosen."""
        routes = self.routes.pop(step, None)
        if routes is None:
            return None
        rows = rows_of_share(packed, group)
        return {layer: ids[rows] for layer, ids in routes.items()}

    def keep(self, step: int, chosen: dict[int, Tensor], packed: PackedBatch, group: Group) -> None:
        """Keeps the experts for a coming batch. Each process passes its share; all processes keep the whole."""
        rows = rows_of_share(packed, group)
        routes = {}
        for layer, ids in chosen.items():
            whole = ids.new_zeros(len(packed.tokens), ids.shape[1])
            whole[rows] = ids[: len(rows)]
            group.sum_([whole])
            routes[layer] = whole
        self.routes[step] = routes

    def record(self) -> dict[str, Any]:
        """Returns the values that a state keeps beside `tensors`."""
        return {"mean": self.mean, "seen": self.seen, "until": self.until}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the routes, by "{step}.{layer}"."""
        return {f"{step}.{layer}": ids for step, routes in self.routes.items() for layer, ids in routes.items()}

    def restore(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restores the results of `record` and `tensors`."""
        self.mean, self.seen, self.until = record["mean"], record["seen"], record["until"]
        self.routes.clear()
        for name, ids in tensors.items():
            step, layer = map(int, name.split("."))
            self.routes.setdefault(step, {})[layer] = ids


def rows_of_share(packed: PackedBatch, group: Group) -> Tensor:
    """Returns the row numbers of the local share of a batch, in its order."""
    numbers = torch.arange(len(packed.tokens))
    return PackedBatch(numbers, numbers, packed.lengths).share(group.rank, group.size).tokens
