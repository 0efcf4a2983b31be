"""Attention of a whole sequence during training, and what the indexer learns from it. Report section 2.3.1.

    dense, warmup    CSA layers attend to all entries
    sparse           to the entries that the indexer chose
    warmup, sparse   the indexer learns to score entries as attention weighed them

Window and HCA entries are attended alike in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wavefold import ops
from wavefold.config import CSA, SWA
from wavefold.model.batch import Batch, Segment, num_visible
from wavefold.model.indexer import as_mask
from wavefold.model.training_pass import TrainingPass
from wavefold.ops import Arithmetic

if TYPE_CHECKING:
    from wavefold.model.attention import Attention


def attend_whole(
    attention: Attention, h: Tensor, qr: Tensor, q: Tensor, kv: Tensor, batch: Batch, training: TrainingPass,
    arithmetic: Arithmetic,
) -> Tensor:  # fmt: skip
    """q [n, H, c] of sequences that begin with this pass, kv [n, c] -> [n, H, c]; their entries to the memories.

    h [n, hidden] and the low-rank queries qr [n, q_lora] are what entries and the indexer are made of.
    """
    lengths = [segment.memory.length for segment in batch.segments]
    parts = [q.split(lengths), kv.split(lengths)]
    if attention.ratio == CSA:
        apart = h.detach(), qr.detach()  # the indexer learns from its own loss alone, and nothing learns from it
        attention.indexer.compressor.compress(apart[0], batch, arithmetic)
        parts += (x.split(lengths) for x in attention.indexer.queries(*apart, batch, arithmetic))
    if attention.ratio != SWA:
        attention.compressor.compress(h, batch, arithmetic)
    return torch.cat([
        _attend(attention, q_part, kv_part, index, segment, training, arithmetic)
        for segment, q_part, kv_part, *index in zip(batch.segments, *parts, strict=True)
    ])  # fmt: skip


def _attend(
    attention: Attention, q: Tensor, kv: Tensor, index: Sequence[Tensor], segment: Segment, training: TrainingPass,
    arithmetic: Arithmetic,
) -> Tensor:  # fmt: skip
    """q [n, H, c] of one sequence that begins with this pass, kv [n, c] -> [n, H, c]; the indexer's loss to `training`.

    `index` is, in CSA layers, the indexer's queries and weights for the same tokens.
    """
    memory, layer, ratio = segment.memory, attention.layer, attention.ratio
    assert memory.start == 0, "training passes hold whole sequences"
    num_entries = 0 if ratio == SWA else memory.end // ratio
    entries = kv[:0] if ratio == SWA else memory.block(attention.compressor.kind, layer, 0, num_entries)
    if ratio != CSA or not num_entries:
        return ops.joint_attention(q, kv, entries, attention.attn_sink, attention.window, ratio, None, False)[0]
    sparse, learns = training.attention == "sparse", training.attention != "dense"
    visible = num_visible(torch.arange(memory.length, device=q.device), CSA)
    chosen = _choice(attention, index, visible, segment, arithmetic) if sparse or training.watch_capture else None
    o, mass = ops.joint_attention(
        q, kv, entries, attention.attn_sink, attention.window, ratio, chosen if sparse else None,
        learns or training.watch_capture,
    )  # fmt: skip
    if mass is not None and chosen is not None and training.watch_capture:
        free = visible > attention.indexer.topk  # queries that see more entries than they may choose
        held, of = training.captured.get(layer, (0.0, 0.0))
        held, of = held + float((mass * chosen)[free].sum()), of + float(mass[free].sum())
        training.captured[layer] = held, of
    if mass is not None and learns:
        keys = memory.block("index", layer, 0, num_entries)
        seen = torch.arange(num_entries, device=q.device) < visible[:, None]
        if sparse and chosen is not None:
            seen &= chosen
        training.index_losses.append(ops.index_loss(index[0], index[1], keys, mass, seen, arithmetic))
    return o


@torch.no_grad()
def _choice(
    attention: Attention, index: Sequence[Tensor], visible: Tensor, segment: Segment, arithmetic: Arithmetic
) -> Tensor | None:
    """The indexer's choice as [n, m] bool; None where it keeps everything."""
    num_entries = segment.memory.end // CSA
    if num_entries <= attention.indexer.topk:
        return None
    return as_mask(attention.indexer.select(index[0], index[1], visible, segment.memory, arithmetic), num_entries)
