"""The lightning indexer: which `index_topk` entries each query attends to. Report section 2.3.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.cache import View, keys_of
from wavefold.config import LayerSpec, ModelConfig
from wavefold.model.batch import Batch
from wavefold.model.compressor import Compressor
from wavefold.model.parameters import Linear
from wavefold.ops import Arithmetic

SCORE_BLOCK = 512
"""Entries scored at a time: what is allocated is queries x heads x this, whatever the context."""


class Indexer(nn.Module):
    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__()
        self.layer, self.ratio, self.keys = spec.layer, spec.ratio, keys_of(spec)
        self.num_heads, self.dim, self.topk = config.index_n_heads, config.index_head_dim, config.index_topk
        self.wq_b = Linear(config.q_lora_rank, self.num_heads * self.dim, "fp8")
        self.weights_proj = Linear(config.hidden_size, self.num_heads, "bf16")
        if spec.has_keys:
            self.compressor = Compressor(config, spec, self.dim, self.keys, as_keys=True)

    def queries(self, h: Tensor, qr: Tensor, batch: Batch, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
        """h [n, hidden], the low-rank query qr [n, q_lora] -> q [n, heads, dim], weights [n, heads]."""
        q = self.wq_b(qr, arithmetic).unflatten(-1, (self.num_heads, self.dim))
        q = ops.index_rotate(ops.rotate(q, batch.table(True), arithmetic), arithmetic)
        weights = ops.index_weights(self.weights_proj(h, arithmetic), self.num_heads, self.dim)
        return q, weights

    def select(self, q: Tensor, weights: Tensor, visible: Tensor, view: View, arithmetic: Arithmetic) -> Tensor:
        """[n, <= topk] entries for each query, best first; visible [n] counts those it may see; -1 = nothing."""
        num_entries = view.end // self.ratio
        if num_entries <= self.topk and not arithmetic.released:  # all of them; their order means nothing here
            everything = torch.arange(num_entries, device=q.device).expand(len(q), -1)
            return everything.masked_fill(everything >= visible[:, None], -1)
        best = ops.RunningTopK(len(q), self.topk, q.device)
        for first in range(0, num_entries, SCORE_BLOCK):
            keys = view.entries(*self.keys, first, min(first + SCORE_BLOCK, num_entries))
            best.add(ops.index_scores(q, weights, keys, arithmetic), first, visible)
        return best.finish()


def as_mask(chosen: Tensor, num_entries: int) -> Tensor:
    """Entries by number, chosen [n, k] with -1 for none -> [n, num_entries] bool."""
    seen = chosen.new_zeros(len(chosen), num_entries + 1, dtype=torch.bool)
    return seen.scatter_(1, chosen.masked_fill(chosen < 0, num_entries), True)[:, :num_entries]
