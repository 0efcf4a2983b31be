"""The router of a MoE layer. The first `num_hash_layers` layers choose experts by token id, the others by affinity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import ModelConfig
from wavefold.model.parameters import empty
from wavefold.ops import Arithmetic


class Router(nn.Module):
    """Parameters `ffn.gate.*`: `weight`, and either the table `tid2eid` [vocab, k] or the balancing `bias`."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.topk, self.scale = config.num_experts_per_tok, config.routed_scaling_factor
        self.hashed = layer < config.num_hash_layers
        self.weight = empty(config.n_routed_experts, config.hidden_size, dtype=torch.bfloat16)
        if self.hashed:
            self.tid2eid = empty(config.vocab_size, self.topk, dtype=torch.int64)
        else:
            self.bias = empty(config.n_routed_experts, dtype=torch.float32)

    def forward(self, h: Tensor, tokens: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
        """h [n, hidden], tokens [n] -> weights [n, k] float32, expert ids [n, k] int64."""
        scores = ops.router_scores(h, self.weight, arithmetic)
        ids = self.tid2eid[tokens].long() if self.hashed else ops.choose_experts(scores, self.bias, self.topk)
        return ops.route_weights(scores, ids, self.scale), ids
