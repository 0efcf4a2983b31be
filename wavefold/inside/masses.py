"""Attention masses of one query, in plain torch: the softmax that `ops/reference/attention.py` runs, kept whole.

mass_j = mean over heads of exp(z_j) / (sum_i exp(z_i) + exp(sink)),    z = q . k / sqrt(c)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Masses(NamedTuple):
    """Masses float32 of window rows [w], entries [m] and sink; `out` float32 [H, c]: masses by head times values."""

    window: Tensor
    entries: Tensor
    sink: float
    out: Tensor


def masses_of(q: Tensor, window: Tensor, entries: Tensor, sink: Tensor) -> Masses:
    """q [H, c], window [w, c], entries [m, c], sink [H]. Computes in float32, or float64 for float64 queries.

    Holds H * (w + m) numbers: of entries, m is at most the index's choice, or a 128th of the text.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys = torch.cat((window.to(wide), entries.to(wide)))
    z = q.to(wide) @ keys.T * q.shape[-1] ** -0.5
    shares = torch.cat((z, sink.to(wide)[:, None]), 1).softmax(1)
    mean = shares.mean(0).float()
    return Masses(mean[: len(window)], mean[len(window) : -1], float(mean[-1]), shares[:, :-1] @ keys)
