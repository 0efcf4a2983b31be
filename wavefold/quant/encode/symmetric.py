"""Super-blocks of 256 values with one float16 scale and a whole number for each sub-block: Q3_K, Q6_K, IQ4_XS.

    value = d * k[sub-block] * v        d float16, k whole, v one of the format's values

The search: for each sub-block the best real scale s among candidates; for some d near the largest s, the best k; then
v, k and d are improved in turn, each the exact minimum of the weighted squared error with the other two fixed, and
float16 of d is part of it. Source: the bit layouts of ggml-common.h; the search is this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .half import half, inverse

FACTORS = (0.7, 0.76, 0.82, 0.87, 0.91, 0.95, 0.98, 1.0, 1.04, 1.1)
"""Scales that are tried, over the scale at which the largest magnitude is the end of the range."""
SUPER_FACTORS = (0.9, 0.94, 0.97, 1.0, 1.03, 1.07)
"""Super-scales that are tried, over the one at which the largest sub-scale is the end of its range."""
ROUNDS = 3


class Symmetric(NamedTuple):
    """What a format allows: the values v, and the whole numbers k from `lowest_scale` to -1 - `lowest_scale`."""

    nearest: Callable[[Tensor], Tensor]
    """Returns the nearest allowed values."""
    ends: tuple[float, float]
    """The smallest and the largest value; the smallest has the larger magnitude."""
    lowest_scale: int


class Found(NamedTuple):
    """The choice for super-blocks: value = d * k * v, with x and v of shape [n, sub-blocks, values]."""

    d: Tensor
    """float32 [n], float16 values."""
    k: Tensor
    """float32 [n, sub-blocks], whole."""
    v: Tensor

    def values(self) -> Tensor:
        """Returns what the choice stands for: [n, sub-blocks, values]."""
        return self.v * (self.d[:, None] * self.k)[..., None]


def search(x: Tensor, w: Tensor, form: Symmetric) -> Found:
    """Returns a choice of small error sum(w * (x - d k v)^2). x, w float32 [n, sub-blocks, values], w >= 0."""
    wx = w * x
    scales = _best_scales(x, w, wx, form)
    largest = scales.gather(1, scales.abs().argmax(1, keepdim=True)).squeeze(1)
    best_error = torch.full_like(largest, torch.inf)
    best_d, best_k = torch.zeros_like(largest), torch.zeros_like(scales)
    for factor in SUPER_FACTORS:
        d = half(largest * (factor / form.lowest_scale))
        k = _whole(scales * inverse(d)[:, None], form)
        xv, vv = _sums(x, w, wx, d, k, form)
        k = _whole(xv * inverse(vv) * inverse(d)[:, None], form)
        error = _error(d, k, xv, vv)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_d, best_k = torch.where(better, d, best_d), torch.where(better[:, None], k, best_k)
    for _ in range(ROUNDS):
        best_d, best_k = _improved(x, w, wx, best_d, best_k, form)
    best_k = _neighbours(x, w, wx, best_d, best_k, form)
    return Found(best_d, best_k, form.nearest(x * inverse(best_d[:, None] * best_k)[..., None]))


def _best_scales(x: Tensor, w: Tensor, wx: Tensor, form: Symmetric) -> Tensor:
    """Returns each sub-block's best real scale [n, sub-blocks]."""
    peak = x.gather(2, x.abs().argmax(2, keepdim=True))
    best = torch.zeros_like(peak[..., 0])
    best_gain = torch.zeros_like(best)
    for end in form.ends:
        for factor in FACTORS:
            v = form.nearest(x * inverse(peak * (factor / end)))
            xv, vv = (wx * v).sum(2), (w * v * v).sum(2)
            scale = xv * inverse(vv)
            gain = xv * scale
            better = gain > best_gain
            best, best_gain = torch.where(better, scale, best), torch.where(better, gain, best_gain)
    return best


def _sums(x: Tensor, w: Tensor, wx: Tensor, d: Tensor, k: Tensor, form: Symmetric) -> tuple[Tensor, Tensor]:
    """Returns sum(w x v) and sum(w v v) [n, sub-blocks] with the nearest v."""
    v = form.nearest(x * inverse(d[:, None] * k)[..., None])
    return (wx * v).sum(2), (w * v * v).sum(2)


def _error(d: Tensor, k: Tensor, xv: Tensor, vv: Tensor) -> Tensor:
    """Returns each super-block's error less sum(w x x): [n]."""
    scale = d[:, None] * k
    return (scale * (scale * vv - 2 * xv)).sum(1)


def _improved(x: Tensor, w: Tensor, wx: Tensor, d: Tensor, k: Tensor, form: Symmetric) -> tuple[Tensor, Tensor]:
    """Returns d and k after one round: the best k for the nearest v, then the best d for both, where it helps."""
    xv, vv = _sums(x, w, wx, d, k, form)
    k = _whole(xv * inverse(vv) * inverse(d)[:, None], form)
    other = half((k * xv).sum(1) * inverse((k * k * vv).sum(1)))
    better = _error(other, k, xv, vv) < _error(d, k, xv, vv)
    return torch.where(better, other, d), k


def _neighbours(x: Tensor, w: Tensor, wx: Tensor, d: Tensor, k: Tensor, form: Symmetric) -> Tensor:
    """Returns k, or one less or more where the nearest v then have a smaller error."""
    best, best_error = k, None
    for step in (0, -1, 1):
        other = (k + step).clamp(form.lowest_scale, -1 - form.lowest_scale)
        xv, vv = _sums(x, w, wx, d, other, form)
        scale = d[:, None] * other
        error = scale * (scale * vv - 2 * xv)
        if best_error is None:
            best_error = error
        else:
            better = error < best_error
            best, best_error = torch.where(better, other, best), torch.where(better, error, best_error)
    return best


def _whole(scale: Tensor, form: Symmetric) -> Tensor:
    return scale.round_().clamp_(form.lowest_scale, -1 - form.lowest_scale)
