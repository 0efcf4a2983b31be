"""Rounding that knows how columns go together: descent, one number at a time, on the mean square error of the product.

    E|(w - q) x|^2 = e H e'        e = w - q of a row, H = E[x x'] (`moments`), over the 256 columns of a super-block

A search weighs columns by H's diagonal: errors of columns whose inputs move together then add up. Here r = e H is
kept, and each number of a block in turn is set to its exact minimum with all others fixed: a code (of an IQ format,
eight of them), a sub-scale, an offset, the float16 scales. No step makes the error larger. Super-blocks of a row are
taken for independent. GPTQ (Frantar et al., 2022) minimizes the same error with scales that were fixed before.

Shapes: [b, r, ...] for super-blocks of r rows at each of the b places in a row; H [b, 256, 256].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wavefold.gguf.types import SUPER

from .half import half, inverse

DAMPING = 0.03
"""Added to H's diagonal, over its mean: a text shows some hundreds of directions, others may come."""
SWEEPS = 2
LEAST_GAIN = 0.8
"""Rows are made larger by 1 / 0.8 at most, so that products are as large as before."""
SIGNED = 8
"""Values of an IQ format that are chosen together: their number of negative ones is even."""
Nearest = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Grid:
    """What a format allows: value = d * (slope * k + base) * c - e * m."""

    lowest: int
    most: int
    """Of k; m goes from 0 to `most`."""
    nearest: Nearest | None = None
    """Returns the nearest codes c; None where codes are points."""
    points: Tensor | None = None
    """Magnitudes [num_points, size] of codes."""
    slope: float = 1.0
    base: float = 0.0
    offsets: bool = False


@dataclass
class Choice:
    """The numbers of super-blocks. `offsets` of zeros (e, m) where a format has none."""

    d: Tensor
    e: Tensor
    k: Tensor
    """[b, r, sub-blocks], as m."""
    m: Tensor
    c: Tensor
    """[b, r, sub-blocks, values]: codes, with their signs."""

    def factors(self, grid: Grid) -> Tensor:
        """Returns slope * k + base."""
        return grid.slope * self.k + grid.base

    def values(self, grid: Grid) -> Tensor:
        """Returns what the numbers stand for: [b, r, 256]."""
        scales = self.d[..., None] * self.factors(grid)
        return (self.c * scales[..., None] - (self.e[..., None] * self.m)[..., None]).flatten(2)


def damped(moments: Tensor) -> Tensor:
    """Returns moments [b, 256, 256], of mean diagonal 1, with a diagonal that bounds what was not seen."""
    return moments + DAMPING * torch.eye(SUPER, dtype=moments.dtype, device=moments.device)


def improve(rows: Tensor, moments: Tensor, grid: Grid, choice: Choice) -> Choice:
    """Returns a better choice for the super-blocks of rows [n, columns], whose numbers come and go as [blocks, ...].

    moments [columns / 256, 256, 256]: damped.
    """
    places = len(moments)
    parts = (choice.d, choice.e, choice.k, choice.m, choice.c)
    ours = Choice(*(_by_place(part, places) for part in parts))
    descend(_by_place(rows.reshape(-1, SUPER), places), moments, ours, grid)
    return Choice(*(part.transpose(0, 1).flatten(0, 1) for part in (ours.d, ours.e, ours.k, ours.m, ours.c)))


def _by_place(found: Tensor, places: int) -> Tensor:
    """[r * b, ...], as the rows of a matrix have super-blocks, -> [b, r, ...], as a copy."""
    return found.reshape(-1, places, *found.shape[1:]).transpose(0, 1).clone(memory_format=torch.contiguous_format)


def descend(x: Tensor, moments: Tensor, choice: Choice, grid: Grid) -> None:
    """Improve `choice` in place. x [b, r, 256]; moments [b, 256, 256], damped.

    The least error has products that are too small (`matrix`), so after the first sweep x is made larger by that.
    """
    target = x
    for sweep in range(SWEEPS):
        residual = (target - choice.values(grid)) @ moments  # anew in each sweep: rounding errors do not add up
        _codes(residual, moments, choice, grid)
        for sub_block in range(choice.k.shape[2]):
            _sub_scales(residual, moments, choice, grid, sub_block)
        _super_scales(residual, moments, choice, grid)
        if sweep == 0:
            target = x / _gain(x, choice.values(grid), moments)
    _codes((target - choice.values(grid)) @ moments, moments, choice, grid)


def _gain(x: Tensor, values: Tensor, moments: Tensor) -> float:
    """Returns (W x)(Q x) over (W x)^2, at most 1."""
    spread = x @ moments
    energy = float((spread * x).sum())
    return min(1.0, max(LEAST_GAIN, float((spread * values).sum()) / energy)) if energy > 0 else 1.0


def _codes(residual: Tensor, moments: Tensor, choice: Choice, grid: Grid) -> None:
    """Choose all codes anew, one sub-block after the other."""
    size = choice.c.shape[3]
    scales = choice.d[..., None] * choice.factors(grid)
    for sub_block in range(choice.k.shape[2]):
        columns = slice(sub_block * size, (sub_block + 1) * size)
        rows = moments[:, columns]
        codes, scale = choice.c[:, :, sub_block], scales[:, :, sub_block]
        before = codes.clone()
        near = residual[:, :, columns].clone()
        if grid.points is None:
            _whole_codes(near, rows[:, :, columns], codes, scale, grid)
        else:
            _points(near, rows[:, :, columns], codes, scale, grid.points)
        residual -= ((codes - before) * scale[..., None]) @ rows


def _whole_codes(residual: Tensor, moments: Tensor, codes: Tensor, scale: Tensor, grid: Grid) -> None:
    """Choose the codes [b, r, size] of a sub-block, one after the other. residual as codes, moments [b, size, size]."""
    assert grid.nearest is not None
    per = inverse(scale)
    for i in range(codes.shape[2]):
        target = codes[:, :, i] + residual[:, :, i] * per / moments[:, i, i, None]
        code = torch.where(scale == 0, codes[:, :, i], grid.nearest(target))
        residual -= ((code - codes[:, :, i]) * scale)[..., None] * moments[:, None, i]
        codes[:, :, i] = code


def _points(residual: Tensor, moments: Tensor, codes: Tensor, scale: Tensor, points: Tensor) -> None:
    """Choose the codes of a sub-block, eight at a time: candidates by H's diagonal, the choice by all of it."""
    per = inverse(scale)[..., None]
    for start in range(0, codes.shape[2], SIGNED):
        eight = slice(start, start + SIGNED)
        h = moments[:, eight, eight]
        target = codes[:, :, eight] + torch.linalg.solve(h, residual[:, :, eight].mT).mT * per
        best = codes[:, :, eight].clone()
        best_error = _quadratic(target - best, h)
        negative = target < 0
        odd = negative.sum(2) % 2 == 1
        for place in range(SIGNED):
            signs = 1 - 2 * negative.float()
            signs[:, :, place] *= torch.where(odd, -1.0, 1.0)
            code = _nearest_points(target * signs, h.diagonal(dim1=1, dim2=2), points) * signs
            error = _quadratic(target - code, h)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = torch.where(better[..., None], code, best)
        residual -= ((best - codes[:, :, eight]) * scale[..., None]) @ moments[:, eight]
        codes[:, :, eight] = best


def _quadratic(e: Tensor, h: Tensor) -> Tensor:
    return ((e @ h) * e).sum(2)


def _nearest_points(magnitudes: Tensor, weights: Tensor, points: Tensor) -> Tensor:
    """Returns the points nearest to [b, r, 8], by weights [b, 8]."""
    size = points.shape[1]
    groups = magnitudes.unflatten(2, (-1, size))
    w = weights.unflatten(1, (-1, size))
    costs = (w @ points.square().T)[:, None] - 2 * (groups * w[:, None]) @ points.T
    return points[costs.argmin(3)].flatten(2)


def _sub_scales(residual: Tensor, moments: Tensor, choice: Choice, grid: Grid, sub_block: int) -> None:
    """Choose a sub-block's k, then its m."""
    size = choice.c.shape[3]
    columns = slice(sub_block * size, (sub_block + 1) * size)
    rows = moments[:, columns]
    along_k = choice.c[:, :, sub_block] * (choice.d * grid.slope)[..., None]
    along_m = (-choice.e)[..., None].expand_as(along_k)
    steps = [(choice.k, along_k, grid.lowest)]
    if grid.offsets:
        steps.append((choice.m, along_m, 0))
    for numbers, along, lowest in steps:
        square = _quadratic(along, rows[:, :, columns])
        product = (residual[:, :, columns] * along).sum(2)
        number = numbers[:, :, sub_block]
        moved = (number + product * inverse(square)).round_().clamp_(lowest, grid.most) - number
        number += moved
        residual -= (along * moved[..., None]) @ rows


def _super_scales(residual: Tensor, moments: Tensor, choice: Choice, grid: Grid) -> None:
    """Choose d, then e, where float16 of the best one has a smaller error."""
    along_d = (choice.c * choice.factors(grid)[..., None]).flatten(2)
    along_e = -(choice.m[..., None].expand_as(choice.c)).flatten(2)
    for number, along in ((choice.d, along_d), (choice.e, along_e))[: 2 if grid.offsets else 1]:
        spread = along @ moments
        square, product = (spread * along).sum(2), (residual * along).sum(2)
        other = half(number + product * inverse(square))
        moved = other - number
        better = (moved * (moved * square - 2 * product) < 0) & (other * number > 0)
        moved = torch.where(better, moved, 0.0)
        number += moved
        residual -= spread * moved[..., None]
