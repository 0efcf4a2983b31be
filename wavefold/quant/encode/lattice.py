"""Super-blocks of 256 values whose magnitudes come in groups from a set of points: IQ2_XXS, IQ2_XS, IQ3_XXS.

    value = d * (2 k[sub-block] + 1) * unit * sign * point[group]       d float16, k whole from 0 to 15

Eight values share seven bits of signs: the number of negative ones is even. Where it is odd, one value gets the wrong
sign. The error of all points under a scale s is s * (s * Q - 2 P), with P = (w |x|) points' and Q = w (points^2)', so
each further scale costs two passes over [groups, points] and every search is exhaustive.
Source: the bit layouts of ggml-common.h; the search is this project's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.gguf.types import SUPER

from .half import half, inverse
from .pack import bytes_of_bits

SIGNED = 8
"""Values that share a byte of signs."""
MOST_SCALE = 15
FACTORS = (0.5, 0.58, 0.66, 0.74, 0.82, 0.9, 1.0)
"""Scales that are tried, over the one at which the largest magnitude is the largest point."""
SUPER_FACTORS = (0.85, 0.9, 0.95, 1.0, 1.06)
ROUNDS = 2


class Lattice(NamedTuple):
    """A format's points [num_points, size], values of a sub-block, and the unit of scales."""

    points: Tensor
    sub_block: int
    unit: float


class Found(NamedTuple):
    """The choice for super-blocks."""

    d: Tensor
    """float32 [n]."""
    k: Tensor
    """float32 [n, sub-blocks], whole."""
    codes: Tensor
    """int64 [n, 256 / size]: points."""
    signs: Tensor
    """uint8 [n, 32]: a bit for each of eight values, set where it is negative, an even number of bits."""

    @classmethod
    def of(cls, d: Tensor, k: Tensor, signed: Tensor, form: Lattice) -> Found:
        """Returns the choice whose points with their signs are `signed`, 256 values for each d."""
        groups = signed.abs().view(len(d), -1, form.points.shape[1])
        codes = (form.points.square().sum(1) - 2 * groups @ form.points.T).argmin(2)
        return cls(d, k, codes, bytes_of_bits(signed.reshape(len(d), -1, SIGNED) < 0))

    def signed(self, form: Lattice) -> Tensor:
        """Returns the points with their signs: [n, 32, 8]."""
        negative = self.signs[..., None] >> torch.arange(SIGNED, dtype=torch.uint8, device=self.d.device) & 1
        return form.points[self.codes].view(len(self.d), -1, SIGNED) * (1 - 2 * negative.float())

    def values(self, form: Lattice) -> Tensor:
        """Returns what the choice stands for: [n, 32, 8]."""
        signed = self.signed(form)
        return (signed.view(*self.k.shape, -1) * _scale(self.d, self.k, form)[..., None]).view(signed.shape)


class _Costs:
    """Errors of all points under scales, less sum(w x x). Groups are ordered as [n, sub-blocks, groups]."""

    def __init__(self, magnitudes: Tensor, weights: Tensor, form: Lattice):
        """magnitudes, weights [n, sub-blocks, groups, size]; flipped signs are negative magnitudes."""
        self.shape = magnitudes.shape[:3]
        size = magnitudes.shape[3]
        self.twice = -2 * (weights * magnitudes).view(-1, size) @ form.points.T
        self.square = weights.reshape(-1, size) @ form.points.square().T

    def least(self, scales: Tensor) -> Tensor:
        """Returns each sub-block's least error [n, sub-blocks] under its scale, which is positive."""
        scale = scales[..., None].expand(self.shape).reshape(-1, 1)
        return (torch.addcmul(self.twice, self.square, scale).amin(1) * scale[:, 0]).view(self.shape).sum(2)

    def sums(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Returns sum(w |x| p) and sum(w p p) [n, sub-blocks] of the best points p under the scales."""
        code = self.codes(scales).view(-1, 1)
        twice, square = self.twice.gather(1, code), self.square.gather(1, code)
        return twice.view(self.shape).sum(2) / -2, square.view(self.shape).sum(2)

    def codes(self, scales: Tensor) -> Tensor:
        """Returns the best points under the scales: int64 [n, sub-blocks, groups]."""
        scale = scales[..., None].expand(self.shape).reshape(-1, 1)
        return torch.addcmul(self.twice, self.square, scale).argmin(1).view(self.shape)


def search(x: Tensor, w: Tensor, form: Lattice) -> Found:
    """Returns a choice of small error. x, w float32 [n, 256], w >= 0."""
    n, size = len(x), form.points.shape[1]
    negative = x.view(n, -1, SIGNED) < 0
    odd = negative.sum(2) % 2 == 1
    place = (w * x * x).view(n, -1, SIGNED).argmin(2, keepdim=True)  # the value whose sign matters least
    flipped = torch.zeros_like(negative).scatter_(2, place, odd[..., None])
    shape = n, SUPER // form.sub_block, form.sub_block // size, size
    magnitudes = torch.where(flipped, -x.view(n, -1, SIGNED).abs(), x.view(n, -1, SIGNED).abs())
    costs = _Costs(magnitudes.reshape(shape), w.view(shape), form)
    d, k = _scales(costs, magnitudes.reshape(shape), form)
    scales = _scale(d, k, form)
    flipped = _best_flips(x.abs(), w, odd, flipped, scales, form)
    magnitudes = torch.where(flipped, -x.view(n, -1, SIGNED).abs(), x.view(n, -1, SIGNED).abs())
    codes = _Costs(magnitudes.reshape(shape), w.view(shape), form).codes(scales).view(n, -1)
    return Found(d, k, codes, bytes_of_bits(negative ^ flipped))


def _scale(d: Tensor, k: Tensor, form: Lattice) -> Tensor:
    """Returns the scales of sub-blocks [n, sub-blocks]."""
    return d[:, None] * (2 * k + 1) * form.unit


def _scales(costs: _Costs, magnitudes: Tensor, form: Lattice) -> tuple[Tensor, Tensor]:
    """Returns d [n] and k [n, sub-blocks]."""
    peak = magnitudes.abs().amax((2, 3)) / form.points.max()
    best, best_error = torch.full_like(peak, 1e-30), torch.zeros_like(peak)
    for factor in FACTORS:
        scales = (peak * factor).clamp_(min=1e-30)
        error = costs.least(scales)
        better = error < best_error
        best, best_error = torch.where(better, scales, best), torch.where(better, error, best_error)
    products, squares = costs.sums(best)
    best = (products * inverse(squares)).clamp_(min=1e-30)
    d, k = _super_scale(costs, best, form)
    for _ in range(ROUNDS):
        k = _neighbours(costs, d, k, form)
        products, squares = costs.sums(_scale(d, k, form))
        steps = (2 * k + 1) * form.unit
        other = half((steps * products).sum(1) * inverse((steps * steps * squares).sum(1))).clamp_(min=0)
        now, before = (
            (scale * (scale * squares - 2 * products)).sum(1) for scale in (_scale(other, k, form), _scale(d, k, form))
        )
        d = torch.where(now < before, other, d)
    return d, _neighbours(costs, d, k, form)


def _super_scale(costs: _Costs, scales: Tensor, form: Lattice) -> tuple[Tensor, Tensor]:
    """Returns the best of a few d with its k."""
    best_d, best_k = torch.zeros_like(scales[:, 0]), torch.zeros_like(scales)
    best_error = torch.full_like(best_d, torch.inf)
    for factor in SUPER_FACTORS:
        d = half(scales.amax(1) * (factor / (form.unit * (2 * MOST_SCALE + 1))))
        k = ((scales * inverse(d * form.unit)[:, None] - 1) / 2).round_().clamp_(0, MOST_SCALE)
        error = costs.least(_scale(d, k, form)).sum(1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_d, best_k = torch.where(better, d, best_d), torch.where(better[:, None], k, best_k)
    return best_d, best_k


def _neighbours(costs: _Costs, d: Tensor, k: Tensor, form: Lattice) -> Tensor:
    """Returns k, or one less or more where the error is then smaller."""
    best, best_error = k, costs.least(_scale(d, k, form))
    for step in (-1, 1):
        other = (k + step).clamp(0, MOST_SCALE)
        error = costs.least(_scale(d, other, form))
        better = error < best_error
        best, best_error = torch.where(better, other, best), torch.where(better, error, best_error)
    return best


def _best_flips(x: Tensor, w: Tensor, odd: Tensor, flipped: Tensor, scales: Tensor, form: Lattice) -> Tensor:
    """Returns the best value to flip in each odd eight [n, 32, 8], given the scales [n, sub-blocks]."""
    size = form.points.shape[1]
    eights = odd.nonzero(as_tuple=True)
    x, w = x.view(*odd.shape, SIGNED)[eights], w.view(*odd.shape, SIGNED)[eights]
    scale = scales.repeat_interleave(form.sub_block // SIGNED, 1)[eights]
    groups = SIGNED // size
    squares = (w.view(-1, size) @ form.points.square().T).mul_(scale.repeat_interleave(groups)[:, None])

    def least(magnitudes: Tensor) -> Tensor:
        """The least error [eights, groups]."""
        return torch.addmm(squares, (w * magnitudes).view(-1, size), form.points.T, alpha=-2).amin(1).view(-1, groups)

    plain = least(x)
    rest = plain.sum(1, keepdim=True) - plain
    errors = []
    for place in range(SIGNED):
        sign = torch.ones(SIGNED, device=x.device)
        sign[place] = -1
        group = place // size
        errors.append(least(x * sign)[:, group] + rest[:, group])
    choice = torch.stack(errors, 1).argmin(1, keepdim=True)
    flipped = flipped.clone()
    flipped[eights] = torch.zeros_like(flipped[eights]).scatter_(1, choice, True)
    return flipped
