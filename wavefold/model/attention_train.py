"""Attention of whole sequences in training, and the losses of the indexer. Report section 2.3.1.

    dense, warmup    indexed layers attend to all entries
    sparse           to the entries that the indexer chose
    warmup, sparse   the indexer learns to score entries as attention weighed them

All stages attend alike to the window, and to entries in layers without an indexer.
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
    """q [n, H, c], kv [n, c] of sequences that begin with this pass -> o [n, H, c]. Adds index losses to `training`.

    Entries are made from h [n, hidden]; the indexer's queries from h and the low-rank queries qr [n, q_lora].
    Raises ValueError for a layer that needs another layer.
    """
    assert all(span.view.start == 0 for span in batch.spans), "training passes hold whole sequences"
    lengths = [span.view.length for span in batch.spans]
    spec = attention.spec
    if not spec.alone:
        raise ValueError(f"training of {spec} is not allowed; expected layers that need nothing of another layer")
    entries = attention.compressor.compress(h, batch, arithmetic) if spec.compressed else kv[:0]
    operands = q, kv, entries, attention.attn_sink, attention.window, spec.ratio, lengths
    sparse, learns = training.attention == "sparse", training.attention != "dense"
    if not spec.indexed or not (learns or training.watch_capture):
        return ops.attend_sequences(*operands, None, False, arithmetic)[0]

    detached = h.detach(), qr.detach()  # the indexer learns only from its loss, and no gradient flows through it
    num_entries = [length // spec.ratio for length in lengths]
    keys = attention.indexer.compressor.compress(detached[0], batch, arithmetic).split(num_entries)
    queries, weights = (x.split(lengths) for x in attention.indexer.queries(*detached, batch, arithmetic))
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
    """Returns the indexer's choice as [n, m] bool, or None where it keeps all entries."""
    if len(keys) <= topk:
        return None
    return as_mask(ops.choose_entries(q, weights, keys, ratio, topk, arithmetic).long(), len(keys))


def _watch(attention: Attention, mass: Tensor, chosen: Tensor, training: TrainingPass) -> None:
    """Adds to `captured` the mass on chosen entries, for queries that see more entries than they may choose."""
    free = num_visible(torch.arange(len(mass), device=mass.device), attention.spec.ratio) > attention.topk
    captured, of = training.captured.get(attention.layer, (0.0, 0.0))
    captured, of = captured + float((mass * chosen)[free].sum()), of + float(mass[free].sum())
    training.captured[attention.layer] = captured, of
