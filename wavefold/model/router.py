"""The router of a MoE layer. Hashed layers choose experts by token id, the others by affinity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavefold import ops
from wavefold.config import LayerSpec, ModelConfig
from wavefold.model.batch import Batch
from wavefold.model.parameters import empty
from wavefold.model.training_pass import TrainingPass
from wavefold.ops import Arithmetic


class Router(nn.Module):
    """Parameters `ffn.gate.*`: `weight`, and either the table `tid2eid` [vocab, k] or the balancing `bias`."""

    def __init__(self, config: ModelConfig, spec: LayerSpec):
        super().__init__()
        self.layer, self.hashed = spec.layer, spec.hashed
        self.topk, self.scale = config.num_experts_per_tok, config.routed_scaling_factor
        self.weight = empty(config.n_routed_experts, config.hidden_size, dtype=torch.bfloat16)
        if self.hashed:
            self.tid2eid = empty(config.vocab_size, self.topk, dtype=torch.int64)
        else:
            self.bias = empty(config.n_routed_experts, dtype=torch.float32)

    def forward(self, h: Tensor, batch: Batch, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
        """h [n, hidden] of the batch's tokens -> weights [n, k] float32, expert ids [n, k] int64."""
        scores = ops.router_scores(h, self.weight, arithmetic)
        if self.hashed:
            ids = self.tid2eid[batch.tokens].long()
        else:
            ids = ops.choose_experts(scores, self.bias, self.topk)
            if batch.training is not None:
                ids = self._learn(scores, ids, batch, batch.training)
        return ops.route_weights(scores, ids, self.scale), ids

    def _learn(self, scores: Tensor, ids: Tensor, batch: Batch, training: TrainingPass) -> Tensor:
        """Leave with `training` who was chosen and the balance loss; the ids to use, which may be anticipated ones."""
        if training.routes is not None:
            ids = training.routes.get(self.layer, ids)
        training.chosen[self.layer] = ids
        training.loads[self.layer] = torch.bincount(ids.flatten(), minlength=scores.shape[1]).float()
        if training.balance:
            lengths = [segment.view.length for segment in batch.segments]
            training.balance_losses.append(ops.balance_loss(scores, ids, lengths))
        return ids
