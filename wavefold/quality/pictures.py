"""The figures of a card as one SVG: text by kind and position, needles by length, shares; each with standard errors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from wavefold.drawing import save_figure
from wavefold.quality.card import Card
from wavefold.quality.needles import CANDIDATES
from wavefold.quality.statistics import Figure

COLOUR = "tab:blue"


def picture(card: Card) -> str:
    """Returns the SVG. The same card is the same text."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(10, 7), layout="constrained")
    kinds, positions, needles, shares = canvas.subplots(2, 2).flat
    _bars(
        kinds,
        "bits per byte of held-out text",
        [figure for figure in _of(card, "text", "bits per byte") if not figure.of.startswith(("position", "after"))],
    )
    name = "KL to the other model" if card.against else "bits per byte"
    figures = [figure for figure in _of(card, "text", name) if figure.of.startswith("position")]
    _line(positions, f"{name}, by position", "token of the text from", figures,
          [figure.of.split()[1] for figure in figures])  # fmt: skip
    figures = [figure for figure in _of(card, "needles", "probability of the right number") if "tokens" in figure.of]
    _line(needles, "needles: probability of the right number", "tokens, about", figures,
          [figure.of.split()[0] for figure in figures])  # fmt: skip
    needles.axhline(1 / CANDIDATES, color="0.6", linestyle=":")
    needles.set_ylim(0, None)
    _bars(shares, "shares", [figure for figure in card.figures if figure.is_share and figure.part != "needles"])
    shares.set_xlim(0, 1.05)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "card.svg"
        save_figure(canvas, path)
        return path.read_text(encoding="utf-8")


def _of(card: Card, part: str, name: str) -> list[Figure]:
    return [figure for figure in card.figures if figure.part == part and figure.name == name]


def _errors(figures: list[Figure]) -> list[float]:
    return [0.0 if figure.se != figure.se else figure.se for figure in figures]


def _bars(axes: Any, title: str, figures: list[Figure]) -> None:
    labels = [figure.of if figure.part == "text" else f"{figure.name}\n{figure.of}" for figure in figures]
    axes.barh(range(len(figures)), [figure.value for figure in figures], xerr=_errors(figures), color=COLOUR)
    axes.set_yticks(range(len(figures)), [_plain(label) for label in labels], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title)


def _line(axes: Any, title: str, below: str, figures: list[Figure], labels: list[str]) -> None:
    values = [figure.value for figure in figures]
    axes.errorbar(range(len(figures)), values, yerr=_errors(figures), marker="o", color=COLOUR, capsize=3)
    axes.set_xticks(range(len(figures)), labels, fontsize=8)
    axes.set_title(title)
    axes.set_xlabel(below)
    axes.grid(alpha=0.3)


def _plain(text: str) -> str:
    """A text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")
