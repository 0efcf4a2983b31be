"""The router: the experts of each token, and their weights. Report section 2.1.

s = sqrt(softplus(x Wᵀ));  experts: the k best of s + bias, or a fixed table's row;  w = s / sum(s) * scale
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.flops import count, count_linear, counted, values


def router_scores(x: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    """x [n, hidden], weight [experts, hidden] -> affinities [n, experts] float32, computed in float32 throughout."""
    count_linear(x, weight)
    count("router", 3 * x.shape[0] * weight.shape[0])
    wide = arithmetic.accumulate
    return F.softplus(F.linear(x.to(wide), weight.to(wide))).sqrt()


@counted("router", lambda scores, *_: values(scores, 2))
def choose_experts(scores: Tensor, bias: Tensor, k: int) -> Tensor:
    """Returns expert ids [n, k], best first. The bias balances load: it enters the choice and never the weights."""
    return (scores + bias.to(scores.dtype)).topk(k, dim=-1).indices


@counted("router", lambda scores, ids, *_: values(ids, 3))
def route_weights(scores: Tensor, ids: Tensor, scale: float) -> Tensor:
    """Returns weights [n, k] float32 of the chosen experts. Their sum is `scale`."""
    chosen = torch.gather(scores, 1, ids)
    return chosen / chosen.sum(-1, keepdim=True) * scale


def balance_loss(scores: Tensor, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sequence-wise balance loss: scores [n, experts], ids [n, k] of sequences of `lengths` -> a scalar.

    The loss is the sum over sequences of T sum_e f_e P_e, for T tokens. f_e is the share of choices that fell on expert
    e, times the number of experts (balance: 1). P_e is the mean normalised affinity of e. DeepSeek-V3's loss.
    Report section 4.2.
    """
    experts = scores.shape[1]
    affinity = scores / scores.sum(-1, keepdim=True)
    total = scores.new_zeros(())
    for shares, chosen in zip(affinity.split(list(lengths)), ids.split(list(lengths)), strict=True):
        share = torch.bincount(chosen.flatten(), minlength=experts).to(shares.dtype) * (experts / chosen.numel())
        total = total + (shares.sum(0) * share).sum()
    return total
