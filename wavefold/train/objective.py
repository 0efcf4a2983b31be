"""The losses of training and evaluation: next-token cross-entropy, and the terms that parts of the model add.

    tokens -> embed -> Block x L (with the values of its masters) -> collapse, norm -> cross-entropy by chunks
                          |  indexer's KL, balance of load                    \\-> MTP module -> cross-entropy

All losses are sums over a share of the batch, so the shares of several processes add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from wavefold.model.training_pass import AttentionStage, TrainingPass
from wavefold.train.chunked_loss import cross_entropy_sum
from wavefold.train.fake_quant import Masters
from wavefold.waves.group import Group


@dataclass(frozen=True)
class Losses:
    """Scalar sums over a share of a batch: nats of the next tokens, nats of the MTP module, KL, balance."""

    next_token: Tensor
    mtp: Tensor
    index: Tensor
    balance: Tensor


class Objective(nn.Module):
    """Computes the losses of a packed batch. With `masters` it uses the quantized values of parameters."""

    model: Transformer

    def __init__(self, model: Transformer, masters: Masters | None = None, recompute: bool = False):
        super().__init__()
        vars(self)["model"] = model  # not a submodule: its parts are, once each, so that they can be sharded
        self.masters, self.recompute = masters, recompute
        self.ends = nn.ModuleDict({"embed": model.embed, "norm": model.norm, "head": model.head})
        self.blocks = nn.ModuleList(_BlockPass(block, masters, f"layers.{i}") for i, block in enumerate(model.layers))
        self.mtp = nn.ModuleList(_BlockPass(block, masters, f"mtp.{i}") for i, block in enumerate(model.mtp))

    def forward(self, packed: PackedBatch, mtp: bool, training: TrainingPass | None = None) -> Losses:
        """Returns the sums over `packed`. `mtp`: run the MTP module too; all processes must pass the same value."""
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
        """Returns (nats, balance) of the MTP module: position i, with token i + 1, predicts token i + 2.

        The last position of a sequence predicts nothing. A share without any prediction runs a dummy token, since all
        processes must join the all-gathers of the module.
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
        """Returns the parameters outside of blocks: embedding, head, the last collapse and norm."""
        model = self.model
        tensors: dict[str, Tensor] = dict(model.named_parameters(recurse=False))
        for name in ("embed", "norm", "head"):
            part: nn.Module = getattr(model, name)
            tensors |= {f"{name}.{key}": value for key, value in part.named_parameters()}
            if self.masters:
                tensors |= {f"{name}.{key}": value for key, value in self.masters.values(part, f"{name}.").items()}
        return tensors


class _BlockPass(nn.Module):
    """One block of a pass, from streams to streams (the MTP module: to hidden states), and the losses of the block."""

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
        for span in batch.spans:
            span.view.forget()
        losses = batch.training.take() if batch.training else (torch.zeros(()), torch.zeros(()))
        return out, *losses


class _Predict(nn.Module):
    """`predict` of the MTP module as a forward, so that its parameters can be swapped."""

    def __init__(self, mtp: nn.Module):
        super().__init__()
        self.mtp = mtp

    def forward(self, embedded: Tensor, streams: Tensor, batch: Batch, *others: Any) -> Tensor:
        mtp: MTP = self.mtp  # type: ignore[assignment]
        return mtp.predict(streams, embedded, batch, *others)


class _Final(nn.Module):
    """The last collapse and norm of the model as a forward."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def forward(self, streams: Tensor) -> Tensor:
        return self.model.final(streams)


def _under(name: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in values.items()}


Evaluated = Callable[[int, int], None]
"""Called after each batch of an evaluation with how many are done, and of how many."""


@torch.no_grad()
def evaluate(
    objective: Objective,
    batches: Sequence[PackedBatch],
    evaluated: Evaluated = lambda number, of: None,
    group: Group | None = None,
    attention: AttentionStage = "sparse",
) -> tuple[float, int]:
    """Returns total nats and learned tokens over `batches`, summed in order: the same model gives the same number.

    The processes of `group` take turns with the batches, and all of them call it. None: this process alone.
    `attention`: that of indexed layers.
    """
    rank, size = (group.rank, group.size) if group else (0, 1)
    nats = [0.0] * len(batches)
    for first in range(0, len(batches), size):  # all run equally often, since they gather shards together
        number = first + rank
        counts = number < len(batches)
        value = _nats(objective, batches[number if counts else 0], attention)
        if counts:
            nats[number] = value
        evaluated(min(first + size, len(batches)), len(batches))
    return sum(group.sums(nats) if group else nats), sum(packed.num_targets for packed in batches)


def _nats(objective: Objective, packed: PackedBatch, attention: AttentionStage) -> float:
    """Returns the total nats of a batch. Sparse attention is that of an answering model."""
    return float(objective(packed, False, None if attention == "sparse" else TrainingPass("dense")).next_token)


@torch.no_grad()
def captured(objective: Objective, batches: Iterable[PackedBatch]) -> dict[int, float]:
    """Returns, by indexed layer, the share of attention mass on the entries that the indexer chooses.

    Attention is dense. Queries for which the indexer may choose all entries are left out. Queries and heads are summed.
    """
    watch = TrainingPass("dense", watch_capture=True)
    for packed in batches:
        objective(packed, False, watch)
    return {layer: mass / of for layer, (mass, of) in sorted(watch.captured.items())}
