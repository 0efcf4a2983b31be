"""Losses of training. Their meaning: `ops/reference/index_loss.py`, `train/chunked_loss.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from wavefold.ops.arithmetic import Arithmetic
from wavefold.ops.backend import kernels_serve, kernels_train
from wavefold.ops.native import losses as native
from wavefold.ops.reference.index_loss import index_loss as reference


def sequence_index_loss(
    q: Tensor, weights: Tensor, keys: Tensor, mass: Tensor, chosen: Tensor | None, ratio: int, arithmetic: Arithmetic
) -> Tensor:  # fmt: skip
    """q [n, heads, dim], weights [n, heads], keys [m, dim], mass [n, m] of a sequence -> the index loss, a scalar.

    Token t sees the first (t + 1) // ratio entries; with `chosen` [n, m], the chosen ones of them.
    """
    if not arithmetic.released and kernels_train(q, weights, keys):
        return native.index_loss(q, weights, keys, mass, chosen, ratio, arithmetic.rounds_index)
    visible = (torch.arange(len(q), device=q.device) + 1) // ratio
    seen = torch.arange(len(keys), device=q.device) < visible[:, None]
    return reference(q, weights, keys, mass, seen if chosen is None else seen & chosen, arithmetic)


def cross_entropy_(logits: Tensor, targets: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """logits [n, V], targets [n] int64 -> nats [n], and the gradient of their sum [n, V]. May overwrite the logits.

    Nats are float32 (float64 for float64 logits); the gradient has the logits' dtype. `ignored` < 0 is the target of
    rows that do not count.
    """
    if logits.is_contiguous() and kernels_serve(logits.detach()):
        return native.cross_entropy_(logits, targets), logits
    learned = targets != ignored
    index = targets.masked_fill(~learned, 0)[:, None]
    wide = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32).log_softmax(-1)
    nats = -(wide.gather(1, index).squeeze(1) * learned)
    grad = wide.exp_().scatter_add_(1, index, wide.new_full(index.shape, -1.0))
    return nats, grad.mul_(learned[:, None]).to(logits.dtype)
