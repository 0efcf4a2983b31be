"""Draws the timeline of a plan or of a measured run: for each rank a row for its computing and one for its link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.drawing import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"compute": "C0", "dispatch": "C2", "combine": "C1"}


@dataclass(frozen=True)
class Span:
    """Work of a rank for a wave, of `kind` "compute", "dispatch" or "combine", from `start` to `end` seconds."""

    rank: int
    kind: str
    wave: int
    start: float
    end: float


def draw(timelines: Sequence[tuple[str, Sequence[Span]]], path: Path) -> None:
    """Writes (title, spans) pairs, one above the other on one axis of seconds, to an .svg or .png file.

    Raises ValueError for any other suffix.
    """
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path} is not allowed; expected a name that ends in .svg or .png")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + sum(0.5 + 0.45 * _rows(spans) for _, spans in timelines)), layout="constrained")
    all_axes = figure.subplots(len(timelines), sharex=True, squeeze=False)[:, 0]
    for axes, (title, spans) in zip(all_axes, timelines, strict=True):
        draw_on(axes, title, spans)
    all_axes[-1].set_xlabel("seconds")
    save_figure(figure, path)


def _rows(spans: Sequence[Span]) -> int:
    return 2 * (max(span.rank for span in spans) + 1)


def draw_on(axes: Axes, title: str, spans: Sequence[Span], links: bool = True) -> None:
    """Draws a timeline on matplotlib axes. `links`: with a row for the link of each rank."""
    rows_of_rank = 1 + links
    for span in spans:
        row = rows_of_rank * span.rank + (span.kind != "compute")
        axes.barh(row, span.end - span.start, left=span.start, height=0.8, color=COLOURS[span.kind],
                  edgecolor="white", linewidth=0.5)  # fmt: skip
        if span.end - span.start > 0.02 * max(s.end for s in spans):
            axes.text(
                (span.start + span.end) / 2, row, str(span.wave), ha="center", va="center", fontsize=6, color="white"
            )
    count = _rows(spans) // 2 * rows_of_rank
    names = [f"rank {row // rows_of_rank}: {'link' if row % rows_of_rank else 'experts'}" for row in range(count)]
    axes.set_yticks(range(count), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    if links:
        for kind, colour in COLOURS.items():
            axes.barh(0, 0, color=colour, label=kind)
        axes.legend(fontsize=7, loc="lower right", ncols=3)
