"""The router: which experts a token goes to, and with what weights. Report section 2.1.

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
    """x [n, hidden], weight [experts, hidden] -> affinities [n, experts] float32, computed in it throughout."""
    count_linear(x, weight)
    count("router", 3 * x.shape[0] * weight.shape[0])
    wide = arithmetic.accumulate
    return F.softplus(F.linear(x.to(wide), weight.to(wide))).sqrt()


@counted("router", lambda scores, *_: values(scores, 2))
def choose_experts(scores: Tensor, bias: Tensor, k: int) -> Tensor:
    """[n, k] expert ids, best first. The bias balances load; it decides who is chosen and never enters the weights."""
    return (scores + bias.to(scores.dtype)).topk(k, dim=-1).indices


@counted("router", lambda scores, ids, *_: values(ids, 3))
def route_weights(scores: Tensor, ids: Tensor, scale: float) -> Tensor:
    """[n, k] float32 weights of the chosen experts, summing to `scale`."""
    chosen = torch.gather(scores, 1, ids)
    return chosen / chosen.sum(-1, keepdim=True) * scale


def balance_loss(scores: Tensor, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """Sequence-wise balance of load: scores [n, experts], ids [n, k] of sequences of `lengths` -> a scalar.

    For each sequence of T tokens, T sum_e f_e P_e, where f_e is the share of choices that fell on expert e, times
    experts (1 everywhere is balance), and P_e the mean of its normalised affinity. DeepSeek-V3's, report section 4.2.
    """
    experts = scores.shape[1]
    affinity = scores / scores.sum(-1, keepdim=True)
    total = scores.new_zeros(())
    for shares, chosen in zip(affinity.split(list(lengths)), ids.split(list(lengths)), strict=True):
        share = torch.bincount(chosen.flatten(), minlength=experts).to(shares.dtype) * (experts / chosen.numel())
        total = total + (shares.sum(0) * share).sum()
    return total
