"""What training minimises, and what evaluation reports: next-token cross-entropy, and the MTP module's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavefold.cache import FreshMemory
from wavefold.model import Transformer
from wavefold.model.batch import Batch
from wavefold.model.mtp import MTP
from wavefold.train.batches import PackedBatch


class Objective(nn.Module):
    """The loss of a packed batch, as a module whose parameters can be swapped for their quantised values."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, packed: PackedBatch, mtp: bool) -> tuple[Tensor, Tensor | None]:
        """Mean nats a token, and those of the MTP module's prediction of the token after (None unless `mtp`)."""
        model = self.model
        batch = Batch.of(model.config, packed.tokens, [FreshMemory(n) for n in packed.lengths])
        streams = model.run_blocks(batch)
        loss = F.cross_entropy(model.logits(model.final(streams)), packed.targets)
        return loss, self._mtp_loss(packed, streams) if mtp else None

    def _mtp_loss(self, packed: PackedBatch, streams: Tensor) -> Tensor:
        """Position i, given token i + 1, predicts token i + 2; a sequence's last position has no such target."""
        model = self.model
        head: MTP = model.mtp[0]  # type: ignore[assignment]
        lengths = [n - 1 for n in packed.lengths if n > 1]
        keep = torch.cat([torch.arange(n) < n - 1 for n in packed.lengths])
        after = torch.cat([targets[1:] for targets in packed.targets.split(packed.lengths)])
        following = packed.targets[keep]
        batch = Batch.of(model.config, following, [FreshMemory(n) for n in lengths])
        embedded = model.embed(following, model.arithmetic)
        hidden = head.predict(streams[keep], embedded, batch, model.store, model.arithmetic)
        return F.cross_entropy(model.logits(hidden), after)


@torch.no_grad()
def evaluate(objective: Objective, batches: Iterable[PackedBatch]) -> tuple[float, int]:
    """Total nats and tokens over `batches`; summed in float64, in order: the same model gives the same number."""
    nats, tokens = 0.0, 0
    for packed in batches:
        nats += nats_of(objective, packed)
        tokens += len(packed.tokens)
    return nats, tokens


def nats_of(objective: Objective, packed: PackedBatch) -> float:
    """Total nats of a batch."""
    loss, _ = objective(packed, False)
    return float(loss.double()) * len(packed.tokens)
