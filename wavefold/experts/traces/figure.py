"""Hit rates of all policies over numbers of slots, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavefold.drawing import save_figure
from wavefold.experts.traces.sizes import OPTIMUM, OURS, Size


def draw(rows: Sequence[Size], num_experts: int, path: Path) -> None:
    """Writes an SVG or PNG file. Raises ValueError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a figure needs matplotlib; install it with: pip install 'wavefold[train]'") from None
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    shares = [100 * row.num_slots / num_experts for row in rows]
    styles: dict[str, dict[str, Any]] = {
        OURS: {"color": "tab:blue", "linewidth": 2.2},
        OPTIMUM: {"color": "black", "linestyle": "--"},
    }
    for name in rows[0].hits:
        axes.plot(shares, [100 * row.hits[name] for row in rows], marker=".", label=name, **styles.get(name, {}))
    axes.set(xlabel="experts in memory, %", ylabel="found in memory, %", xlim=(0, 100), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
