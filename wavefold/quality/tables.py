"""The tables of a card and of a comparison, as rows of texts for Markdown, the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wavefold.quality.card import Card
from wavefold.quality.compare import verdict
from wavefold.quality.statistics import Difference, Figure

TITLES = {
    "text": "Held-out text", "needles": "Needles", "loops": "Loops", "forms": "Structured output",
    "tools": "Tool calls", "chats": "Chats",
}  # fmt: skip
MAIN = (
    ("text", "bits per byte", "all"),
    ("text", "nats per token", "all"),
    ("text", "bits per byte beyond the other model", "all"),
    ("text", "KL to the other model", "all"),
    ("text", "same best token", "all"),
    ("needles", "probability of the right number", "all"),
    ("needles", "of the numbers in the text", "all"),
    ("loops", "continuations that fall into repetition", "greedy"),
    ("loops", "continuations that fall into repetition", "temperature 0.7"),
    ("forms", "valid answers", "by itself"),
    ("forms", "valid answers", "held by the grammar"),
    ("tools", "valid calls", "by itself"),
    ("tools", "valid calls", "held by the grammar"),
    ("tools", "probability of the right tool", "all"),
    ("chats", "right answers with the end mark after them", "all"),
    ("chats", "nats", "end mark after right answers"),
)
"""Figures that stand first."""


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def number(value: float | None) -> str:
    """Returns a number with four digits that count."""
    if value is None or value != value:
        return "-"
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def model_rows(model: dict[str, object]) -> str:
    """Returns a model in one line."""
    size = model.get("bytes")
    return (
        f"{model.get('name')}: {size:,} bytes of weights, {model.get('layers')} layers, "
        f"{model.get('vocabulary')} tokens, weights {str(model.get('weights'))[:12]}, "
        f"tokenizer {str(model.get('tokenizer'))[:12]}"
    )


def card_tables(card: Card) -> list[Table]:
    """Returns the main figures, then those of each part."""
    main = [figure for key in MAIN if (figure := card.find(*key)) is not None]
    tables = [_figures("Main figures", main, with_part=True)]
    for part in card.parts:
        figures = [figure for figure in card.figures if figure.part == part]
        tables.append(_figures(TITLES.get(part, part), figures))
    return tables


def _figures(title: str, figures: Sequence[Figure], with_part: bool = False) -> Table:
    rows = [
        (
            f"{TITLES.get(figure.part, figure.part)}: {figure.name}" if with_part else figure.name, figure.of,
            number(figure.value), number(figure.se), f"{len(figure.num):,}", figure.better,
        )
        for figure in figures
    ]  # fmt: skip
    return Table(title, ("figure", "of", "value", "standard error", "groups", "better"), rows)


def comparison_table(differences: Sequence[Difference], clear_only: bool = False) -> Table:
    """Returns a row for each difference; with `clear_only` for those that are clear."""
    rows = []
    for one in differences:
        said = verdict(one)
        if clear_only and said in ("", "same"):
            continue
        name = f"{TITLES.get(one.first.part, one.first.part)}: {one.first.name}"
        errors = "-" if one.errors is None else f"{one.errors:+.1f}"
        rows.append((
            name, one.first.of, number(one.first.value), number(one.second.value), number(one.value), number(one.se),
            errors, said,
        ))  # fmt: skip
    return Table("Differences", ("figure", "of", "first", "second", "difference", "standard error", "errors", ""), rows)
