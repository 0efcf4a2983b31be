"""Which type for which experts' matrices: the least loss under a budget of bytes, exactly, by dynamic programming.

    for each layer and each of w1, w2, w3: bytes and loss of each type -> one type each, sum of bytes <= budget

A GGUF file holds a layer's experts of one matrix in one tensor of one type, so that is the finest choice. The loss of a
type is the weighted error of a sample of rows over their weighted energy (the share of noise in the product), times the
place's sensitivity: an estimate of the KL divergence in nats a token, in which errors of different places add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from wavefold.experts.table import MATRICES
from wavefold.quant.encode import MATRIX_TYPES, TYPES, encode, fitting
from wavefold.quantize.importance import Importance
from wavefold.quantize.source import Source

CANDIDATES = ("iq2_xxs", "iq2_xs", "q2_k", "iq3_xxs", "q3_k", "iq4_xs", "mxfp4", "q4_k", "q5_k", "q6_k", "q8_0")
SAMPLE_EXPERTS, SAMPLE_ROWS = 4, 32
UNITS = 1 << 15
"""Parts of the budget that bytes are counted in, rounded up, at most; sizes with a larger common divisor are exact."""

Place = tuple[int, str]
"""A layer and a matrix."""


class Option(NamedTuple):
    """A type for a place."""

    type: str
    num_bytes: int
    loss: float


def measure(
    source: Source, importance: Importance | None, kept: Sequence[Sequence[int]],
    types: Sequence[str] = CANDIDATES, on_place: Callable[[int, int], None] = lambda done, of: None,
) -> dict[Place, list[Option]]:  # fmt: skip
    """Returns each place's options, by measured loss of a sample. `kept`: each layer's experts that are written.

    Types whose blocks do not fill the rows are left out.
    """
    layers = source.config.num_hidden_layers
    places = [(layer, matrix) for layer in range(layers) for matrix in MATRICES]
    options = {}
    for number, (layer, matrix) in enumerate(places, 1):
        rows, columns = source.expert(layer, 0, matrix).shape
        weight = 1.0
        if importance is not None and importance.sensitivity.any():
            weight = float(importance.sensitivity[layer, MATRICES.index(matrix)])
        noise = _noise(
            source, importance, layer, matrix, kept[layer], [name for name in types if name in fitting(columns)]
        )
        options[layer, matrix] = [
            Option(name, len(kept[layer]) * rows * TYPES[name].row_bytes(columns), weight * share)
            for name, share in noise.items()
        ]
        on_place(number, len(places))
    return options


def _noise(
    source: Source, importance: Importance | None, layer: int, matrix: str, kept: Sequence[int], types: Sequence[str]
) -> dict[str, float]:
    """Returns the share of noise by type, over a sample of rows of the experts with the most tokens."""
    order = list(kept)
    if importance is not None:
        order.sort(key=lambda expert: -float(importance.tokens[layer, expert]))
    sums = {name: [0.0, 0.0] for name in types}
    for expert in order[:SAMPLE_EXPERTS]:
        values = source.expert(layer, expert, matrix).decode(torch.float32)
        sample = values[:: max(1, len(values) // SAMPLE_ROWS)][:SAMPLE_ROWS].contiguous()
        columns = None if importance is None else importance.columns(layer, expert, matrix)
        share = 1.0 if columns is None else float(columns.mean() * importance.tokens[layer, expert])  # type: ignore[union-attr]
        moments = None if importance is None else importance.moments(layer, expert, matrix)
        for name in types:
            encoded = encode(sample, name, columns, moments)
            sums[name][0] += share * encoded.error
            sums[name][1] += share * encoded.energy
    return {name: error / energy if energy else 0.0 for name, (error, energy) in sums.items()}


def useful_options(choices: Sequence[Option]) -> list[Option]:
    """Returns the options that no other one beats in bytes and loss, from the smallest on."""
    useful: list[Option] = []
    for option in sorted(choices, key=lambda option: (option.num_bytes, option.loss)):
        if not useful or option.loss < useful[-1].loss:
            useful.append(option)
    return useful


def choose(options: Mapping[Place, Sequence[Option]], budget: int) -> dict[Place, Option]:
    """Returns the option of each place whose losses have the smallest sum, with at most `budget` bytes in all.

    Bytes are counted in 1/UNITS of the budget, rounded up. Raises ValueError where the smallest types do not fit.
    """
    least = sum(min(option.num_bytes for option in choices) for choices in options.values())
    if least > budget:
        raise ValueError(f"experts take {least:,} bytes at least; {budget:,} are left for them")
    common = math.gcd(*(option.num_bytes for choices in options.values() for option in choices))
    unit = max(common, -(-budget // UNITS))
    size = budget // unit + 1
    best = np.zeros(size)
    picks = []
    for choices in options.values():
        losses = np.full((len(choices), size), np.inf)
        for row, option in enumerate(choices):
            units = -(-option.num_bytes // unit)
            if units < size:
                losses[row, units:] = best[: size - units] + option.loss
        picks.append(losses.argmin(0))
        best = losses.min(0)
    if not np.isfinite(best[-1]):  # rounding up took the room
        return {place: min(choices, key=lambda option: option.num_bytes) for place, choices in options.items()}
    chosen, left = {}, size - 1
    for (place, choices), pick in zip(reversed(list(options.items())), reversed(picks), strict=True):
        chosen[place] = choices[int(pick[left])]
        left -= -(-chosen[place].num_bytes // unit)
    return {place: chosen[place] for place in options}


assert set(CANDIDATES) <= set(MATRIX_TYPES)
