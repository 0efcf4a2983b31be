"""A card as one HTML page: tables, and figures as images inside it. It asks for nothing outside and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from wavefold.quality.card import Card
from wavefold.quality.pictures import picture
from wavefold.quality.statistics import Difference
from wavefold.quality.tables import TITLES, Table, card_tables, comparison_table, model_rows

STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}img{max-width:100%}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:left}"
    "td:nth-child(n+3),th:nth-child(n+3){text-align:right}"
    "tr.better td:last-child{color:#06702c}tr.worse td:last-child{color:#a3140c}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}img{background:#fff}}"
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(card: Card) -> str:
    """Returns the whole card."""
    lines = [("Model", model_rows(card.model))]
    if card.against is not None:
        lines.append(("Other model", model_rows(card.against)))
    lines.append(("Texts", ", ".join(f"{kind} {size:,}" for kind, size in card.texts["bytes"].items()) + " bytes"))
    lines.append(("Settings", ", ".join(f"{key} {value}" for key, value in card.settings.items())))
    lines += [("Not measured", f"{TITLES.get(part, part)}: {why}") for part, why in card.missing.items()]
    image = base64.b64encode(picture(card).encode()).decode()
    body = [_list(lines), f'<p><img alt="Figures of the card" src="data:image/svg+xml;base64,{image}"></p>']
    body += [f"<h2>{escape(table.title)}</h2>{_table(table)}" for table in card_tables(card)]
    return _document("Quality card", body)


def comparison_page(first: Card, second: Card, differences: Sequence[Difference]) -> str:
    """Returns two cards side by side."""
    lines = [("First", model_rows(first.model)), ("Second", model_rows(second.model))]
    return _document("Two quality cards", [_list(lines), _table(comparison_table(differences))])


def _document(title: str, body: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _list(lines: Sequence[tuple[str, str]]) -> str:
    return "<ul>" + "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in lines) + "</ul>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f'<tr class="{escape(row[-1], quote=True)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    return f"<table><tr>{head}</tr>\n{rows}</table>"
