"""The real modules without weights: a decode step on the meta device, counted. No figure comes from a formula.

    Transformer on meta -> pool on meta, a sequence of context - 1 tokens -> one more token -> FlopCounter

Routers choose fixed experts, which does not change the count. Everything else runs as it is, with the pieces and the
packed cache of released arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import COMPRESSIONS, WINDOW_PART, ModelConfig
from wavefold.model.batch import Batch
from wavefold.model.moe import MoE
from wavefold.model.router import Router
from wavefold.model.transformer import Transformer
from wavefold.ops import Arithmetic, FlopCounter

COUNTED_PARTS = ("linear", "index", *(compression.part for compression in COMPRESSIONS), WINDOW_PART)
"""The parts that the published figures count."""


class FixedRouter(nn.Module):
    """A router that computes scores and chooses the first k experts, on the CPU."""

    def __init__(self, router: Router):
        super().__init__()
        self.router = router

    def forward(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
        scores = ops.router_scores(h, self.router.weight, arithmetic)
        if not self.router.hashed:
            ops.choose_experts(scores, self.router.bias, self.router.topk)
        ids = torch.arange(self.router.topk).expand(len(h), -1)
        return ops.route_weights(scores, ids.to(h.device), self.router.scale), ids


def count_decode_step(config: ModelConfig, context: int) -> FlopCounter:
    """Counts the operations of token number `context`. Raises ValueError for a context beyond the model's."""
    if not 1 < context <= config.max_position_embeddings:
        raise ValueError(f"context = {context} is not allowed; expected 2 to {config.max_position_embeddings}")
    model = Transformer(config, Arithmetic("released", torch.bfloat16))
    for module in model.modules():
        if isinstance(module, MoE) and isinstance(module.gate, Router):
            module.gate = FixedRouter(module.gate)
    pool = model.new_pool(context)
    sequence = pool.open()
    sequence.table = pool.blocks.allocate(pool.layout.num_blocks(context - 1))
    sequence.num_tokens = context - 1
    batch = Batch.of(config, torch.zeros(1, dtype=torch.int64, device="meta"), pool.begin([sequence], [1]))
    with ops.counting() as counter, torch.no_grad():
        model.logits(model.final(model.run_blocks(batch)))
    return counter
