"""Rows by expert in training: all rows of an expert lie side by side, so that each row is moved once."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_train
from wavefold.ops.native import expert_rows as native


def moves_rows(h: Tensor, arithmetic: Arithmetic) -> bool:
    """True if `ExpertRows` can move the rows of h: kernels, with gradients."""
    return not arithmetic.released and kernels_train(h)


class ExpertRows:
    """The rows of chosen experts, ids [n, k]. `experts`: those with rows. `counts`: their numbers of rows."""

    def __init__(self, ids: Tensor, num_experts: int):
        order = ids.flatten().argsort(stable=True)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        self.order, self.tokens, self.places = order, order // ids.shape[1], places.view_as(ids)
        counts = torch.bincount(ids.flatten(), minlength=num_experts).tolist()
        self.experts = [expert for expert, count in enumerate(counts) if count]
        self.counts = [count for count in counts if count]

    def take(self, h: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """h [n, d], weights [n, k] -> rows [n * k, d] in the order of `experts`, and their weights [n * k, 1]."""
        return native.take_rows(h, self.tokens, self.places), weights.flatten()[self.order, None]

    def sum(self, outputs: Tensor, added: Tensor) -> Tensor:
        """`outputs` in the order of `take` -> each token's sum with `added` [n, d], rounded once: [n, d]."""
        return native.sum_rows(outputs, self.tokens, self.places, added)
