"""Figures as small files: text stays text, and the same figure is the same file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, an SVG or PNG file."""
    import matplotlib

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "wavefold", "font.sans-serif": ["DejaVu Sans"]}
    ):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
