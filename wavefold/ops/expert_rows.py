"""Rows by expert in training: all rows of an expert lie side by side, so that each row is moved once."""

from __future__ import annotations

from collections.abc import Sequence

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

    def take(self, h: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """h [n, d], weights [n, k] -> for each of `experts`, rows [count, d] and their weights [count, 1]."""
        rows = native.take_rows(h, self.tokens, self.places).split(self.counts)
        return list(zip(rows, weights.flatten()[self.order, None].split(self.counts), strict=True))

    def sum(self, outputs: Sequence[Tensor], added: Tensor) -> Tensor:
        """`outputs` of the experts -> each token's sum of outputs and `added` [n, d], rounded once: [n, d]."""
        return native.sum_rows(torch.cat(list(outputs)), self.tokens, self.places, added)
