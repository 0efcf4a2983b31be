"""Super-blocks of 256 values with a scale and an offset for each sub-block: Q2_K, Q4_K, Q5_K.

    value = d * k[sub-block] * q - e * m[sub-block]        d, e float16; k, m whole from 0; q whole from 0 to `most`

The search goes as in symmetric.py: real scales and offsets of each sub-block, the float16 pair, then whole numbers and
pair in turn. Given q, the weighted squared error is a quadratic of the rest, so each step is its exact minimum.
Source: the bit layouts of ggml-common.h; the search is this project's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .half import half, inverse

ROUNDS = 4


class Asymmetric(NamedTuple):
    """What a format allows: q from 0 to `most`, k and m from 0 to `most_scale`."""

    most: int
    most_scale: int
    cuts: tuple[float, ...]
    """Scales that are tried for a sub-block, over (largest - smallest) / most."""
    pairs: tuple[tuple[float, float], ...]
    """Factors of d and e that are tried, over those at which the largest k and m are the ends of their ranges."""


class Found(NamedTuple):
    """The choice for super-blocks: value = d * k * q - e * m, with q of shape [n, sub-blocks, values]."""

    d: Tensor
    e: Tensor
    k: Tensor
    m: Tensor
    q: Tensor

    def values(self) -> Tensor:
        """Returns what the choice stands for: [n, sub-blocks, values]."""
        return self.q * (self.d[:, None] * self.k)[..., None] - (self.e[:, None] * self.m)[..., None]


class _Sums(NamedTuple):
    """Weighted sums over a sub-block, [n, sub-blocks]."""

    w: Tensor
    x: Tensor
    q: Tensor
    qq: Tensor
    xq: Tensor

    def error(self, scale: Tensor, offset: Tensor) -> Tensor:
        """Returns the error of scale * q - offset, less sum(w x x)."""
        return (
            scale * (scale * self.qq - 2 * self.xq) + offset * (offset * self.w + 2 * self.x)
            - 2 * scale * offset * self.q
        )  # fmt: skip


class _Data(NamedTuple):
    x: Tensor
    w: Tensor
    wx: Tensor
    sum_w: Tensor
    sum_x: Tensor
    most: int

    def quantized(self, scale: Tensor, offset: Tensor) -> Tensor:
        """Returns the nearest q for scale * q - offset."""
        per_scale = inverse(scale)
        return (
            torch.addcmul((offset * per_scale)[..., None], self.x, per_scale[..., None]).round_().clamp_(0, self.most)
        )

    def sums(self, scale: Tensor, offset: Tensor) -> _Sums:
        q = self.quantized(scale, offset)
        wq = self.w * q
        return _Sums(self.sum_w, self.sum_x, wq.sum(2), (wq * q).sum(2), (self.wx * q).sum(2))


def search(x: Tensor, w: Tensor, form: Asymmetric) -> Found:
    """Returns a choice of small error sum(w * (x - d k q + e m)^2). x, w float32 [n, sub-blocks, values], w >= 0."""
    wx = w * x
    data = _Data(x, w, wx, w.sum(2), wx.sum(2), form.most)
    scales, offsets = _best_lines(data, form)
    best: tuple[Tensor, ...] = ()
    best_error = torch.full_like(scales[:, 0], torch.inf)
    for factor_d, factor_e in form.pairs:
        d = half(scales.amax(1) * (factor_d / form.most_scale))
        e = half(offsets.amax(1) * (factor_e / form.most_scale))
        k, m = _whole(scales * inverse(d)[:, None], form), _whole(offsets * inverse(e)[:, None], form)
        for _ in range(2):
            sums = data.sums(d[:, None] * k, e[:, None] * m)
            k, m = _fitted(sums, d, e, k, m, form)
        error = sums.error(d[:, None] * k, e[:, None] * m).sum(1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = tuple(
            torch.where(better if now.dim() == 1 else better[:, None], now, before)
            for now, before in zip((d, e, k, m), best or (d, e, k, m), strict=True)
        )
    d, e, k, m = best
    for _ in range(ROUNDS):
        k, m = _neighbours(data, d, e, k, m, form)
        sums = data.sums(d[:, None] * k, e[:, None] * m)
        k, m = _fitted(sums, d, e, k, m, form)
        d, e = _fitted_pair(sums, d, e, k, m)
    k, m = _neighbours(data, d, e, k, m, form)
    return Found(d, e, k, m, data.quantized(d[:, None] * k, e[:, None] * m))


def _best_lines(data: _Data, form: Asymmetric) -> tuple[Tensor, Tensor]:
    """Returns each sub-block's best real scale and offset [n, sub-blocks], the offset from 0."""
    low = data.x.amin(2).clamp(max=0)
    width = data.x.amax(2) - low
    best_scale, best_offset = torch.zeros_like(low), -low
    best_error = torch.full_like(low, torch.inf)
    for cut in form.cuts:
        scale, offset = width * (cut / form.most), -low
        for _ in range(2):
            sums = data.sums(scale, offset)
            scale, offset = _line(sums)
            error = sums.error(scale, offset)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_offset = torch.where(better, offset, best_offset)
    return best_scale, best_offset


def _line(sums: _Sums) -> tuple[Tensor, Tensor]:
    """Returns the scale and offset >= 0 of the smallest error for these q."""
    determinant = sums.w * sums.qq - sums.q * sums.q
    per = inverse(determinant)
    scale = (sums.w * sums.xq - sums.x * sums.q) * per
    offset = (sums.q * sums.xq - sums.qq * sums.x) * per
    plain = (offset < 0) | (determinant <= 0) | (scale <= 0)
    alone = (sums.xq * inverse(sums.qq)).clamp_(min=0)
    return torch.where(plain, alone, scale), torch.where(plain, 0.0, offset)


def _fitted(sums: _Sums, d: Tensor, e: Tensor, k: Tensor, m: Tensor, form: Asymmetric) -> tuple[Tensor, Tensor]:
    """Returns k, m: the best k for this m, then the best m for it, and again."""
    for _ in range(2):
        k = _whole((sums.xq + e[:, None] * m * sums.q) * inverse(d[:, None] * sums.qq), form)
        m = _whole((d[:, None] * k * sums.q - sums.x) * inverse(e[:, None] * sums.w), form)
    return k, m


def _fitted_pair(sums: _Sums, d: Tensor, e: Tensor, k: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Returns d, e: the best ones for these numbers where float16 of them has a smaller error, else as before."""
    kk, mm, km = (k * k * sums.qq).sum(1), (m * m * sums.w).sum(1), (k * m * sums.q).sum(1)
    kx, mx = (k * sums.xq).sum(1), (m * sums.x).sum(1)
    per = inverse(kk * mm - km * km)
    one, other = half((mm * kx - km * mx) * per), half((km * kx - kk * mx) * per)
    now = sums.error(one[:, None] * k, other[:, None] * m).sum(1)
    better = (now < sums.error(d[:, None] * k, e[:, None] * m).sum(1)) & (one > 0) & (other >= 0)
    return torch.where(better, one, d), torch.where(better, other, e)


def _neighbours(data: _Data, d: Tensor, e: Tensor, k: Tensor, m: Tensor, form: Asymmetric) -> tuple[Tensor, Tensor]:
    """Returns k and m, or a neighbouring k with its best m where the nearest q then have a smaller error."""
    best_k, best_m, best_error = k, m, torch.full_like(k, torch.inf)
    for step in (0, -1, 1):
        other = (k + step).clamp(0, form.most_scale)
        sums = data.sums(d[:, None] * other, e[:, None] * m)
        fitted = m if step == 0 else _whole((d[:, None] * other * sums.q - sums.x) * inverse(e[:, None] * sums.w), form)
        error = sums.error(d[:, None] * other, e[:, None] * fitted)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_k, best_m = torch.where(better, other, best_k), torch.where(better, fitted, best_m)
    return best_k, best_m


def _whole(value: Tensor, form: Asymmetric) -> Tensor:
    return value.round_().clamp_(0, form.most_scale)
