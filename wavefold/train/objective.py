"""What training minimises, and what evaluation reports: next-token cross-entropy, and what the parts add.

    tokens -> embed -> Block x L (with the values of its masters) -> collapse, norm -> cross-entropy by chunks
                          |  indexer's KL, balance of load                    \\-> MTP module -> cross-entropy

Sums over a share of the batch, so that shares of several processes add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from wavefold.cache import FreshView
from wavefold.data.batches import IGNORED, PackedBatch
from wavefold.model import Transformer
from wavefold.model.batch import Batch
from wavefold.model.mtp import MTP
from wavefold.model.training_pass import TrainingPass
from wavefold.train.chunked_loss import cross_entropy_sum
from wavefold.train.fake_quant import Masters


@dataclass(frozen=True)
class Losses:
    """Sums over a share of a batch, scalars: nats of the next tokens and of the MTP module's, KL, balance."""

    next_token: Tensor
    mtp: Tensor
    index: Tensor
    balance: Tensor


class Objective(nn.Module):
    """The losses of a packed batch. With `masters` the model's parameters are seen as their quantized values."""

    model: Transformer

    def __init__(self, model: Transformer, masters: Masters | None = None, recompute: bool = False):
        super().__init__()
        vars(self)["model"] = model  # no submodule: its parts are, each once, so that they can be sharded
        self.masters, self.recompute = masters, recompute
        self.ends = nn.ModuleDict({"embed": model.embed, "norm": model.norm, "head": model.head})
        self.blocks = nn.ModuleList(_BlockPass(block, masters, f"layers.{i}") for i, block in enumerate(model.layers))
        self.mtp = nn.ModuleList(_BlockPass(block, masters, f"mtp.{i}") for i, block in enumerate(model.mtp))

    def forward(self, packed: PackedBatch, mtp: bool, training: TrainingPass | None = None) -> Losses:
        """The sums over `packed`; the MTP module's only if `mtp`, which all processes of a group say alike."""
        model = self.model
        values = self._own_values()
        batch = Batch.of(model.config, packed.tokens, [FreshView(n) for n in packed.lengths], training)
        embedded = functional_call(model.embed, {"weight": values["embed.weight"]}, (batch.tokens, model.arithmetic))
        streams = embedded[:, None].expand(-1, model.num_streams, -1)
        index, balance = embedded.new_zeros((), dtype=torch.float32), embedded.new_zeros((), dtype=torch.float32)
        for block in self.blocks:
            streams, *more = self._run(block, streams, None, batch)
            index, balance = index + more[0], balance + more[1]
        hidden = functional_call(_Final(model), _under("model", values), (streams,))
        nats = cross_entropy_sum(hidden.to(model.arithmetic.matmul), values["head.weight"], packed.targets)
        mtp_nats = torch.zeros(())
        if mtp:
            mtp_nats, mtp_balance = self._mtp(packed, streams, values, training)
            balance = balance + mtp_balance
        return Losses(nats, mtp_nats, index, balance)

    def _mtp(
        self, packed: PackedBatch, streams: Tensor, values: dict[str, Tensor], training: TrainingPass | None
    ) -> tuple[Tensor, Tensor]:
        """(nats, balance): position i, given token i + 1, predicts token i + 2, a sequence's last position nothing.

        A share without such a position runs one token that counts nothing: the module's shards are gathered by all.
        """
        model = self.model
        if not (counts := max(packed.lengths) > 1):
            packed = PackedBatch(packed.tokens[:1].repeat(2), torch.full((2,), IGNORED), (2,))
            streams = streams[:1].repeat(2, 1, 1)
            loads = dict(training.loads) if training else {}
        lengths = [n - 1 for n in packed.lengths if n > 1]
        keep = torch.cat([torch.arange(n) < n - 1 for n in packed.lengths])
        after = torch.cat([targets[1:] for targets in packed.targets.split(packed.lengths)])
        following = torch.cat([tokens[1:] for tokens in packed.tokens.split(packed.lengths)])
        batch = Batch.of(model.config, following, [FreshView(n) for n in lengths], training)
        embedded = functional_call(model.embed, {"weight": values["embed.weight"]}, (following, model.arithmetic))
        hidden, _, balance = self._run(self.mtp[0], streams[keep], embedded, batch)
        if training and not counts:
            training.loads = {layer: loads.get(layer, torch.zeros_like(load)) for layer, load in training.loads.items()}
        hidden = hidden.to(model.arithmetic.matmul)
        return cross_entropy_sum(hidden, values["head.weight"], after), balance * counts

    def _run(self, block: nn.Module, streams: Tensor, embedded: Tensor | None, batch: Batch) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(
                block, streams, embedded, batch, self.model, use_reentrant=False, determinism_check="none"
            )
        return block(streams, embedded, batch, self.model)

    def _own_values(self) -> dict[str, Tensor]:
        """What is no block's: embedding, head, the last collapse and norm."""
        model = self.model
        own: dict[str, Tensor] = dict(model.named_parameters(recurse=False))
        for name in ("embed", "norm", "head"):
            part: nn.Module = getattr(model, name)
            own |= {f"{name}.{key}": value for key, value in part.named_parameters()}
            if self.masters:
                own |= {f"{name}.{key}": value for key, value in self.masters.values(part, f"{name}.").items()}
        return own


class _BlockPass(nn.Module):
    """One block of a pass, from streams to streams or, the MTP module, to its hidden states; and its own losses."""

    def __init__(self, block: nn.Module, masters: Masters | None, name: str):
        super().__init__()
        self.block = block
        self._masters, self._prefix = masters, f"{name}."

    def forward(self, streams: Tensor, embedded: Tensor | None, batch: Batch, model: Transformer) -> Any:
        values = self._masters.values(self.block, self._prefix) if self._masters else {}
        experts = model.experts.over(self._masters.experts) if self._masters else model.experts
        inputs = (streams, batch, experts, model.arithmetic)
        if embedded is not None:
            out = functional_call(_Predict(self.block), _under("mtp", values), (embedded, *inputs))
        else:
            out = functional_call(self.block, values, inputs)
        for segment in batch.segments:
            segment.view.forget()
        losses = batch.training.take() if batch.training else (torch.zeros(()), torch.zeros(()))
        return out, *losses


class _Predict(nn.Module):
    """The MTP module's `predict` as a forward, so that its parameters can be swapped."""

    def __init__(self, mtp: nn.Module):
        super().__init__()
        self.mtp = mtp

    def forward(self, embedded: Tensor, streams: Tensor, batch: Batch, *others: Any) -> Tensor:
        mtp: MTP = self.mtp  # type: ignore[assignment]
        return mtp.predict(streams, embedded, batch, *others)


class _Final(nn.Module):
    """The model's last collapse and norm as a forward."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, streams: Tensor) -> Tensor:
        return self.model.final(streams)


def _under(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in values.items()}


@torch.no_grad()
def evaluate(objective: Objective, batches: Iterable[PackedBatch]) -> tuple[float, int]:
    """Total nats and learned tokens over `batches`; in order: the same model gives the same number."""
    nats, tokens = 0.0, 0
    for packed in batches:
        nats += nats_of(objective, packed)
        tokens += packed.num_targets
    return nats, tokens


def nats_of(objective: Objective, packed: PackedBatch) -> float:
    """Total nats of a batch."""
    return float(objective(packed, False).next_token)


@torch.no_grad()
def captured(objective: Objective, batches: Iterable[PackedBatch]) -> dict[int, float]:
    """By indexed layer, the share of attention's mass on entries that the indexer's choice holds, where it may not
    choose all: attention is dense, and queries and heads are summed."""
    watch = TrainingPass("dense", watch_capture=True)
    for packed in batches:
        objective(packed, False, watch)
    return {layer: held / of for layer, (held, of) in sorted(watch.captured.items())}
