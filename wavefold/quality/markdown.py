"""A card as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from wavefold.quality.card import Card
from wavefold.quality.statistics import Difference
from wavefold.quality.tables import TITLES, Table, card_tables, comparison_table, model_rows


def markdown(card: Card) -> str:
    """Returns the whole card."""
    lines = ["# Quality card", "", f"- Model: {_safe(model_rows(card.model))}"]
    if card.against is not None:
        lines.append(f"- Other model: {_safe(model_rows(card.against))}")
    kinds = ", ".join(f"{kind} {size:,}" for kind, size in card.texts["bytes"].items())
    lines.append(f"- Texts: {_safe(kinds)} bytes, SHA-256 {card.texts['digest'][:12]}")
    lines.append(f"- Settings: {_safe(', '.join(f'{key} {value}' for key, value in card.settings.items()))}")
    lines += [f"- Not measured: {TITLES.get(part, part)}: {_safe(why)}" for part, why in card.missing.items()]
    for table in card_tables(card):
        lines += ["", f"## {table.title}", "", *_table(table)]
    return "\n".join(lines) + "\n"


def comparison_markdown(first: Card, second: Card, differences: Sequence[Difference]) -> str:
    """Returns two cards side by side."""
    lines = [
        "# Two quality cards", "", f"- First: {_safe(model_rows(first.model))}",
        f"- Second: {_safe(model_rows(second.model))}", "", *_table(comparison_table(differences)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(table: Table) -> list[str]:
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return [f"| {' | '.join(map(_safe, row))} |" for row in rows]


def _safe(text: str) -> str:
    """A text without what Markdown would take for its own: names of files may hold anything."""
    return "".join("\\" + sign if sign in "|<>`*_[]" else sign for sign in text if sign.isprintable())
