"""Two cards side by side: each figure that both have, the difference, and how many standard errors it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wavefold.atomic import write_text
from wavefold.quality.card import Card
from wavefold.quality.statistics import Difference

CLEAR = 3.0
"""Standard errors from which on a difference is called clear."""
KIND = "wavefold quality comparison 1"
SIZES = ("tokens", "lengths", "seed")
"""Settings that must be the same. How a model computes may differ."""


def compare(first: Card, second: Card) -> list[Difference]:
    """Returns the differences of the figures that both cards have. Raises ValueError for cards of other texts."""
    if first.texts != second.texts:
        raise ValueError(
            "the cards are of different texts or amounts of them; make both with the same --text, --tokens"
        )
    sizes = [{key: card.settings.get(key) for key in SIZES} for card in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError("the cards were made with different --tokens, --lengths or --seed; make both with the same")
    found = {figure.key: figure for figure in second.figures}
    return [Difference(figure, found[figure.key]) for figure in first.figures if figure.key in found]


def verdict(difference: Difference, clear: float = CLEAR) -> str:
    """Returns one of "same", "better", "worse", "differs", and "" for a difference of less than `clear` errors."""
    errors = difference.errors
    if difference.value == 0:
        return "same"
    if errors is None or abs(errors) < clear:
        return ""
    if not difference.first.better:
        return "differs"
    return "better" if (difference.value < 0) == (difference.first.better == "low") else "worse"


def comparison_json(first: Card, second: Card, differences: Sequence[Difference]) -> str:
    """Returns the comparison in JSON."""
    lines = [
        {"part": one.first.part, "figure": one.first.name, "of": one.first.of, "first": one.first.value,
         "second": one.second.value, "difference": one.value, "se": one.se, "errors": one.errors,
         "verdict": verdict(one)}
        for one in differences
    ]  # fmt: skip
    return json.dumps({"kind": KIND, "first": first.model, "second": second.model, "figures": lines}, indent=1) + "\n"


def save(folder: Path, first: Card, second: Card, differences: Sequence[Difference]) -> None:
    """Writes compare.json, compare.md and compare.html into a folder."""
    from wavefold.quality.markdown import comparison_markdown
    from wavefold.quality.page import comparison_page

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(folder / "compare.json", comparison_json(first, second, differences))
    write_text(folder / "compare.md", comparison_markdown(first, second, differences))
    write_text(folder / "compare.html", comparison_page(first, second, differences))
