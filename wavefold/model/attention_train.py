"""Attention of whole sequences during training, and what the indexer learns from it. Report section 2.3.1.

    dense, warmup    indexed layers attend to all entries
    sparse           to the entries that the indexer chose
    warmup, sparse   the indexer learns to score entries as attention weighed them

The window, and entries without an indexer, are attended alike in all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavefold import ops
from wavefold.model.batch import Batch, num_visible
from wavefold.model.indexer import as_mask
from wavefold.model.training_pass import TrainingPass
from wavefold.ops import Arithmetic

if TYPE_CHECKING:
    from wavefold.model.attention import Attention


def attend_training(
    attention: Attention, h: Tensor, qr: Tensor, q: Tensor, kv: Tensor, batch: Batch, training: TrainingPass,
    arithmetic: Arithmetic,
) -> Tensor:  # fmt: skip
    """q [n, H, c], kv [n, c] of sequences that begin with this pass -> [n, H, c]; the indexer's losses to `training`.

    Their entries are made of h [n, hidden], the indexer's queries of it and of the low-rank queries qr [n, q_lora].
    """
    assert all(segment.view.start == 0 for segment in batch.segments), "training passes hold whole sequences"
    lengths = [segment.view.length for segment in batch.segments]
    spec = attention.spec
    if not spec.alone:
        raise ValueError(f"training of {spec} is not allowed; expected layers that need nothing of another layer")
    entries = attention.compressor.compress(h, batch, arithmetic) if spec.compressed else kv[:0]
    operands = q, kv, entries, attention.attn_sink, attention.window, spec.ratio, lengths
    if not spec.indexed:
        return ops.attend_sequences(*operands, None, False, arithmetic)[0]

    detached = h.detach(), qr.detach()  # the indexer learns from its own loss alone, and nothing learns from it
    num_entries = [length // spec.ratio for length in lengths]
    keys = attention.indexer.compressor.compress(detached[0], batch, arithmetic).split(num_entries)
    queries, weights = (x.split(lengths) for x in attention.indexer.queries(*detached, batch, arithmetic))
    sparse, learns = training.attention == "sparse", training.attention != "dense"
    chosen: list[Tensor | None] = [None] * len(lengths)
    if sparse or training.watch_capture:
        chosen = [
            _choice(*operand, spec.ratio, attention.topk, arithmetic)
            for operand in zip(queries, weights, keys, strict=True)
        ]
    attended = chosen if sparse else None
    o, masses = ops.attend_sequences(*operands, attended, learns or training.watch_capture, arithmetic)
    for i, mass in enumerate(masses):
        choice = chosen[i]
        if training.watch_capture and choice is not None:
            _watch(attention, mass, choice, training)
        if learns and len(keys[i]):
            seen = choice if sparse else None
            loss = ops.sequence_index_loss(queries[i], weights[i], keys[i], mass, seen, spec.ratio, arithmetic)
            training.index_losses.append(loss)
    return o


@torch.no_grad()
def _choice(
    q: Tensor, weights: Tensor, keys: Tensor, ratio: int, topk: int, arithmetic: Arithmetic
) -> Tensor | None:  # fmt: skip
    """The indexer's choice as [n, m] bool; None where it keeps everything."""
    if len(keys) <= topk:
        return None
    return as_mask(ops.choose_entries(q, weights, keys, ratio, topk, arithmetic).long(), len(keys))


def _watch(attention: Attention, mass: Tensor, chosen: Tensor, training: TrainingPass) -> None:
    """Add to `captured` what the choice would have held, of queries that see more entries than they may choose."""
    free = num_visible(torch.arange(len(mass), device=mass.device), attention.spec.ratio) > attention.topk
    captured, of = training.captured.get(attention.layer, (0.0, 0.0))
    captured, of = captured + float((mass * chosen)[free].sum()), of + float(mass[free].sum())
    training.captured[attention.layer] = captured, of
