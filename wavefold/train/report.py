"""Results of a run: held-out bits per byte, beside general compressors on the same bytes, and the loss curve."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavefold.data.corpus import Document
from wavefold.drawing import save_figure

MOST_POINTS = 300
"""Largest number of points of a curve."""


@dataclass(frozen=True)
class HeldOut:
    """Bits per byte of the held-out files, joined in order, as UTF-8."""

    model: float
    xz: float
    gzip: float
    num_bytes: int
    num_tokens: int


def held_out_report(nats_per_token: float, num_tokens: int, documents: Sequence[Document]) -> HeldOut:
    """Returns bits per byte of the model (nats_per_token * num_tokens over these documents), `xz -9` and `gzip -9`."""
    data = "".join(document.text for document in documents).encode()
    return HeldOut(
        model=nats_per_token * num_tokens / math.log(2) / len(data),
        xz=8 * len(lzma.compress(data, preset=9)) / len(data),
        gzip=8 * len(gzip.compress(data, 9)) / len(data),
        num_bytes=len(data),
        num_tokens=num_tokens,
    )


def hours_of(log: Path) -> float:
    """Returns the hours of all steps of a run, without evaluations and saves."""
    return sum(line["tokens"] / line["tokens_per_s"] for line in steps_of(log)) / 3600


def steps_of(log: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log that describe steps. Other lines describe changes between steps."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def thinned(lines: list[dict[str, Any]], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Merges equal numbers of lines until at most `most` are left: tokens are summed, losses are averaged."""
    size = -(-len(lines) // most)
    groups = [lines[first : first + size] for first in range(0, len(lines), size)] if lines else []
    return [
        group[-1] | {"loss": sum(line["loss"] for line in group) / len(group),
                     "tokens": sum(line["tokens"] for line in group),
                     "held_out": next((line["held_out"] for line in group[::-1] if line.get("held_out")), None)}
        for group in groups
    ]  # fmt: skip


def draw_curve(log: Path, bytes_per_token: float, path: Path) -> None:
    """Draws the loss in log.jsonl, as bits per byte over tokens seen, to an SVG or PNG file."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("drawing the curve needs matplotlib; install it with: pip install 'wavefold[train]'") from None
    lines = thinned(steps_of(log))
    if not lines:  # the log of a finished run was lost
        return
    scale = 1 / math.log(2) / bytes_per_token
    seen, tokens = [], 0
    for line in lines:
        tokens += line["tokens"]
        seen.append(tokens / 1e6)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    losses = [line["loss"] * scale for line in lines]
    axes.plot(seen, losses, color="tab:blue", label="training")
    held_out = [(x, line["held_out"] * scale) for x, line in zip(seen, lines, strict=True) if line["held_out"]]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="tab:orange", label="held-out files")
    axes.set(xlabel="million tokens", ylabel="bits per byte", ylim=(0, min(5, losses[0] * 1.05)))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
