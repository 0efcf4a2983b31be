"""Heat strips: how the attention of one row lay over the text, a strip a layer, and what of it fell on which part."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from wavefold.drawing import save_figure
from wavefold.inside.record import LayerSeen, Seen

MOST_COLUMNS = 1000
"""Columns of a strip: of longer texts, several tokens are one."""
PARTS = {"window": "tab:blue", "entries": "tab:orange", "sink": "lightgray"}


def draw(seen: Seen, path: Path) -> None:
    """Writes an SVG or PNG file. Raises ValueError where matplotlib is not installed, and for another ending."""
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path}: expected a name that ends in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a figure needs matplotlib; install it with: pip install 'wavefold[train]'") from None
    layers = seen.layers
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(layers)), layout="constrained")
    strips, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    heat = torch.stack([columns(strip(layer, seen.position)) for layer in layers])
    heat = (heat / heat.amax(1, keepdim=True).clamp_min(1e-12)).sqrt()
    extent = (-0.5, seen.position + 0.5, len(layers) - 0.5, -0.5)
    strips.imshow(heat.numpy(), aspect="auto", interpolation="nearest", cmap="viridis", extent=extent)
    strips.set(xlabel="token", title="attention over the text: root of the share, each layer by its largest")
    strips.set_yticks(range(len(layers)), [f"{layer.spec.layer} {layer.spec.part}" for layer in layers])
    left = torch.zeros(len(layers))
    for name, width in zip(PARTS, zip(*map(parts, layers), strict=True), strict=True):
        shares.barh(range(len(layers)), width, left=left.tolist(), color=PARTS[name], label=name)
        left += torch.tensor(width)
    shares.set(xlim=(0, 1), xlabel="share")
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path)


def parts(layer: LayerSeen) -> tuple[float, float, float]:
    """The masses of window, entries and sink."""
    return float(layer.window.sum()), float(layer.entries.mass.sum()) if layer.entries else 0.0, layer.sink


def strip(layer: LayerSeen, position: int) -> Tensor:
    """Returns the mass on tokens 0 .. position, float32. An entry's lies evenly on the `ratio` tokens of its block."""
    mass = torch.zeros(position + 1)
    mass[layer.first(position) :] += layer.window
    if layer.entries is not None:
        entries, ratio = layer.entries, layer.spec.ratio
        numbers = torch.arange(entries.num_complete) if entries.chosen is None else entries.chosen
        tokens = torch.stack([numbers * ratio + place for place in range(ratio)], 1)
        mass.index_add_(0, tokens.flatten(), (entries.mass / ratio).repeat_interleave(ratio))
    return mass


def columns(mass: Tensor) -> Tensor:
    """Mass by token [n] -> by column [<= MOST_COLUMNS], each the sum of as many tokens."""
    if len(mass) <= MOST_COLUMNS:
        return mass
    column = torch.arange(len(mass)) * MOST_COLUMNS // len(mass)
    return torch.zeros(MOST_COLUMNS).index_add_(0, column, mass)
