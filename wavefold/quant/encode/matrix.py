"""`encode`: a matrix in a type of GGUF files, some rows at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.gguf.types import MATRIX_TYPES, SUPER, ggml_type
from wavefold.quant.i_grids import grid
from wavefold.quant.i_quants import TABLE as IQ4_VALUES

from . import asymmetric, descent, lattice, pack, plain, symmetric
from .half import LARGEST_HALF

CHUNK = 1 << 17
"""Values that are searched at a time, so that what is tried for them stays in a CPU's cache."""
SAMPLE_ROWS = 32
Encoder = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Rows, weights of the same shape and damped moments to bytes and the values that they stand for, in any shape."""
FLOOR = 1e-4
"""The least importance of a column, over the mean: an input that was never seen may come."""

SEARCHED = tuple(name for name in MATRIX_TYPES if name not in ("f16", "bf16", "q8_0"))
DESCENDED = tuple(name for name in SEARCHED if name != "mxfp4")
MOST: dict[str, float] = {
    name: LARGEST_HALF if name == "f16" else torch.finfo(torch.float32).max for name in MATRIX_TYPES
}
"""The largest magnitude by type."""


class Encoded(NamedTuple):
    """A matrix in a type, and how far its values are from the original ones."""

    rows: Tensor
    """uint8 [rows, bytes of a row]."""
    error: float
    """sum(importance * (value - written)^2), importance scaled to a mean of 1; with moments, sum(e H e')."""
    energy: float
    """The same of the values: error over energy is the share of noise in the product."""


def encode(
    values: Tensor, name: str, importance: Tensor | None = None, moments: Tensor | None = None
) -> Encoded:  # fmt: skip
    """Returns a matrix [rows, columns] in the type `name`, and its weighted error.

    `importance` [columns], finite and >= 0: the mean square of each column's input (None: all alike, which all zeros
    mean too). F16, BF16 and Q8_0 use it for the error alone. `moments` [columns / 256, 256, 256]: means of products of
    inputs, for the K and IQ types (`descent`). Values are float32 or narrower and finite. Raises ValueError for
    values or importance that are not, and where blocks do not fill a row.
    """
    row_bytes = ggml_type(name).row_bytes(values.shape[1])
    weight = _column_weights(importance, values)
    h = _checked_moments(moments, values)
    damped = None if h is None else descent.damped(h)
    gain = _gain(values, name, weight) if h is None or name not in DESCENDED else 1.0
    step = max(1, CHUNK // max(1, values.shape[1]))
    out = torch.empty(len(values), row_bytes, dtype=torch.uint8, device=values.device)
    error = energy = 0.0
    for start in range(0, len(values), step):
        rows = values[start : start + step].float()
        if not (rows.abs().amax() <= MOST[name]):  # false for NaN
            raise ValueError(
                f"rows {start} to {start + len(rows) - 1} hold infinity, NaN or values that {name} has not; expected "
                f"at most {MOST[name]:g}"
            )
        written, restored = ENCODERS[name](rows / gain, weight.expand_as(rows), damped)
        out[start : start + step] = written.view(len(rows), row_bytes)
        difference = restored.view(rows.shape) - rows
        error += _product(difference, difference, weight, h)
        energy += _product(rows, rows, weight, h)
    return Encoded(out, error, energy)


def _gain(values: Tensor, name: str, weight: Tensor) -> float:
    """Returns how much smaller a product comes out, by a sample of rows: (W x)(Q x) over (W x)^2.

    The smallest error is that of a matrix that is too small: what rounding cannot follow is missing. All experts
    together are then too quiet, which costs a model more than noise does. Rows are divided by it before rounding.
    """
    sample = values[:: max(1, len(values) // SAMPLE_ROWS)].float()
    if name not in SEARCHED or not (sample.abs().amax() <= MOST[name] / 2):
        return 1.0
    _, restored = ENCODERS[name](sample, weight.expand_as(sample), None)
    energy = _product(sample, sample, weight, None)
    gain = _product(sample, restored.view(sample.shape), weight, None) / energy if energy > 0 else 1.0
    return min(1.0, max(descent.LEAST_GAIN, gain))


def _product(one: Tensor, other: Tensor, weight: Tensor, moments: Tensor | None) -> float:
    """Returns the sum of products of one's and other's outputs for the inputs that weights or moments describe."""
    if moments is None:
        return float(((one * other) @ weight).sum())
    spread = one.reshape(-1, len(moments), SUPER).transpose(0, 1) @ moments
    return float((spread * other.reshape(-1, len(moments), SUPER).transpose(0, 1)).sum())


def _checked_moments(moments: Tensor | None, values: Tensor) -> Tensor | None:
    """Returns them with a mean square of 1; None where there are none or all are zeros."""
    if moments is None:
        return None
    shape = values.shape[1] // SUPER, SUPER, SUPER
    if moments.shape != shape or values.shape[1] % SUPER:
        raise ValueError(f"moments of shape {list(moments.shape)} are not allowed; expected {list(shape)}")
    if not moments.isfinite().all():
        raise ValueError("moments hold numbers that are infinite or NaN; expected means of products of inputs")
    mean = moments.diagonal(dim1=1, dim2=2).mean()
    return (moments / mean).to(values.device, torch.float32) if mean > 0 else None


def _column_weights(importance: Tensor | None, values: Tensor) -> Tensor:
    """Returns float32 [columns] of mean 1."""
    columns = values.shape[1]
    if importance is None:
        return torch.ones(columns, device=values.device)
    if importance.shape != (columns,):
        raise ValueError(f"importance of shape {list(importance.shape)} is not allowed; expected [{columns}]")
    weight = importance.to(values.device, torch.float32)
    if not (weight.isfinite() & (weight >= 0)).all():
        raise ValueError("importance holds numbers that are infinite, NaN or negative; expected mean squares")
    mean = weight.mean()
    return (weight / mean).clamp_(min=FLOOR) if mean > 0 else torch.ones_like(weight)


def _nearest_whole(low: int, high: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.round_().clamp_(low, high)


@functools.cache
def _iq4_table() -> tuple[Tensor, Tensor]:
    """Codes and values by twice the quotient, from -256 to 255: all borders between values are whole halves."""
    halves = (torch.arange(-256, 256) + 0.5) / 2
    codes = (halves[:, None] - torch.tensor(IQ4_VALUES)).abs().argmin(1)
    return codes.to(torch.uint8), torch.tensor(IQ4_VALUES, dtype=torch.float32)[codes]


def _iq4_places(x: Tensor) -> Tensor:
    return (2 * x).floor_().clamp_(-256, 255).add_(256).int()


def _nearest_iq4(x: Tensor) -> Tensor:
    return _iq4_table()[1].to(x.device)[_iq4_places(x)]


Q3 = symmetric.Symmetric(_nearest_whole(-4, 3), (-4, 3), -32)
Q6 = symmetric.Symmetric(_nearest_whole(-32, 31), (-32, 31), -128)
IQ4 = symmetric.Symmetric(_nearest_iq4, (-127, 113), -32)
_FINE = ((1.0, 1.0), (0.97, 1.0), (1.0, 0.97), (1.03, 1.0))
_COARSE = tuple((one, other) for one in (0.85, 0.93, 1.0, 1.06) for other in (0.88, 1.0, 1.08))
Q2 = asymmetric.Asymmetric(3, 15, (0.55, 0.65, 0.75, 0.85, 0.95, 1.05), _COARSE)
Q4 = asymmetric.Asymmetric(15, 63, (0.76, 0.84, 0.9, 0.94, 0.97, 1.0, 1.03, 1.06), _FINE)
Q5 = asymmetric.Asymmetric(31, 63, (0.88, 0.92, 0.95, 0.97, 0.985, 1.0, 1.015, 1.03), _FINE)


def _symmetric(form: symmetric.Symmetric, size: int, write: Callable[..., Tensor], k_zero: int, q_zero: int) -> Encoder:
    def encode_rows(rows: Tensor, weights: Tensor, moments: Tensor | None) -> tuple[Tensor, Tensor]:
        found = _found_symmetric(rows, weights, moments, form, size)
        k = (found.k + k_zero).to(torch.int16).to(torch.uint8)
        return write(found.d, k, (found.v.flatten(1) + q_zero).to(torch.uint8)), found.values()

    return encode_rows


def _iq4_xs(rows: Tensor, weights: Tensor, moments: Tensor | None) -> tuple[Tensor, Tensor]:
    found = _found_symmetric(rows, weights, moments, IQ4, 32)
    codes = _iq4_table()[0].to(rows.device)[_iq4_places(found.v)]
    return pack.iq4_xs(found.d, (found.k + 32).to(torch.uint8), codes.flatten(1)), found.values()


def _found_symmetric(
    rows: Tensor, weights: Tensor, moments: Tensor | None, form: symmetric.Symmetric, size: int
) -> symmetric.Found:
    found = symmetric.search(*_in_sub_blocks(rows, weights, size), form)
    if moments is None:
        return found
    grid = descent.Grid(form.lowest_scale, -1 - form.lowest_scale, form.nearest)
    none = torch.zeros_like(found.d), torch.zeros_like(found.k)
    better = descent.improve(rows, moments, grid, descent.Choice(found.d, none[0], found.k, none[1], found.v))
    return symmetric.Found(better.d, better.k, better.c)


def _asymmetric(form: asymmetric.Asymmetric, size: int, write: Callable[..., Tensor]) -> Encoder:
    grid = descent.Grid(0, form.most_scale, _nearest_whole(0, form.most), offsets=True)

    def encode_rows(rows: Tensor, weights: Tensor, moments: Tensor | None) -> tuple[Tensor, Tensor]:
        found = asymmetric.search(*_in_sub_blocks(rows, weights, size), form)
        if moments is not None:
            better = descent.improve(rows, moments, grid, descent.Choice(*found))
            found = asymmetric.Found(better.d, better.e, better.k, better.m, better.c)
        parts = (part.flatten(1).to(torch.uint8) for part in (found.k, found.m, found.q))
        return write(found.d, found.e, *parts), found.values()

    return encode_rows


def _lattice(name: str, sub_block: int, unit: float, write: Callable[..., Tensor]) -> Encoder:
    def encode_rows(rows: Tensor, weights: Tensor, moments: Tensor | None) -> tuple[Tensor, Tensor]:
        form = lattice.Lattice(grid(name, rows.device), sub_block, unit)
        found = lattice.search(rows.reshape(-1, SUPER), weights.reshape(-1, SUPER), form)
        if moments is not None:
            allowed = descent.Grid(0, lattice.MOST_SCALE, None, form.points, 2 * unit, unit)
            none = torch.zeros_like(found.d), torch.zeros_like(found.k)
            codes = found.signed(form).view(len(found.d), -1, sub_block)
            better = descent.improve(
                rows, moments, allowed, descent.Choice(found.d, none[0], found.k, none[1], codes)
            )  # fmt: skip
            found = lattice.Found.of(better.d, better.k, better.c, form)
        return write(found.d, found.k.to(torch.uint8), found.codes, found.signs), found.values(form)

    return encode_rows


def _in_sub_blocks(rows: Tensor, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    shape = -1, SUPER // size, size
    return rows.reshape(shape), weights.reshape(shape)


ENCODERS: dict[str, Encoder] = {
    "f16": lambda rows, weights, moments: plain.narrow(rows, torch.float16),
    "bf16": lambda rows, weights, moments: plain.narrow(rows, torch.bfloat16),
    "q8_0": lambda rows, weights, moments: plain.q8_0(rows),
    "mxfp4": lambda rows, weights, moments: plain.mxfp4(rows, weights),
    "q6_k": _symmetric(Q6, 16, pack.q6_k, 0, 32),
    "q5_k": _asymmetric(Q5, 32, pack.q5_k),
    "q4_k": _asymmetric(Q4, 32, pack.q4_k),
    "iq4_xs": _iq4_xs,
    "q3_k": _symmetric(Q3, 16, pack.q3_k, 32, 4),
    "q2_k": _asymmetric(Q2, 16, pack.q2_k),
    "iq3_xxs": _lattice("iq3_xxs", 32, 0.25, pack.iq3_xxs),
    "iq2_xs": _lattice("iq2_xs", 16, 0.125, pack.iq2_xs),
    "iq2_xxs": _lattice("iq2_xxs", 32, 0.125, pack.iq2_xxs),
}
