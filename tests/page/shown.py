"""What Look inside shows, held against a record: number by number, as a reader sees them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any


def fixed(value: float, digits: int) -> str:
    """JavaScript's toFixed: of two decimals that are as near, the one that lies further from 0."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def percent(share: float) -> str:
    """The page's way to write a share."""
    value = share * 100
    if value == 0:
        return "0 %"
    return "< 0.01 %" if value < 0.01 else f"{fixed(value, 2)} %" if value < 1 else f"{fixed(value, 1)} %"


def visible(text: str) -> str:
    """The page's way to write a token: blanks at its ends, ends of lines and tabs are shown, markers are plain."""
    shown = text.replace("｜", "|").replace("▁", "_").replace("\n", "↵").replace("\t", "⇥")
    start, end = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    return ("·" * start + shown[start : len(shown) - end] + "·" * end if shown.strip(" ") else "·" * len(shown)) or "∅"


def check_shown(page: Any, said: Mapping[str, Any]) -> None:
    """Look inside shows the record `said`: shares of every layer, its entries and experts, tokens, guess, blocks."""
    rows = page.locator(".heat tbody tr")
    assert rows.count() == len(said["layers"])
    for index, layer in enumerate(said["layers"]):
        entries = layer["entries"]
        shares = [sum(layer["window"]["mass"]), sum(entries["mass"]) if entries else None, layer["sink_mass"]]
        kind = {"window": "Window", "csa": "CSA", "hca": "HCA"}[layer["kind"]]
        expected = [str(layer["layer"]), kind, *("–" if share is None else percent(share) for share in shares)]
        cells = [cell.strip() for cell in rows.nth(index).locator("th, td").all_inner_texts() if cell.strip()]
        assert cells == expected
        rows.nth(index).locator(".strip").focus()
        check_details(page, said, layer)
    top = page.locator("[aria-labelledby=inside-top] tbody tr")
    assert [text.split("\t")[-1] for text in top.all_inner_texts()] == [
        percent(one["probability"]) for one in said["top"]
    ]
    written = said["next"] and [one["id"] for one in said["top"]].count(said["next"]["id"])
    assert page.locator(".written").count() == (written or 0)
    experts = page.locator(".experts tbody tr")
    for index, layer in enumerate(said["layers"]):
        numbers = experts.nth(index).locator(".expert").all_inner_texts()
        assert numbers == [str(one["expert"]) for one in layer["experts"]]
    if said["mtp"]:
        guess = page.inner_text("[aria-labelledby=inside-mtp]")
        assert visible(said["mtp"]["text"]) in guess and percent(said["mtp"]["probability"]) in guess
        assert {True: "accepted", False: "rejected", None: "ends before"}[said["mtp"]["accepted"]] in guess
    cache = page.inner_text("[aria-labelledby=inside-cache]")
    blocks, hit = said["cache"]["blocks"], said["cache"]["prefix_hit_tokens"]
    assert f"in {blocks} block" in cache and (f"first {hit:,} tokens" if hit else "Nothing of it") in cache
    assert page.locator(".blocks i").count() == said["cache"]["blocks"]


def check_details(page: Any, said: dict[str, Any], layer: dict[str, Any]) -> None:
    """The layer's own part: entries by score or mass, with their texts, and the weights of its experts."""
    entries = layer["entries"]
    if entries:
        chosen = entries["chosen"] or range(entries["count"])
        order = range(len(chosen)) if entries["chosen"] else sorted(chosen, key=lambda one: -entries["mass"][one])
        rows = page.locator(".entry-table tbody tr")
        for index, place in enumerate(list(order)[:12]):
            entry = chosen[place]
            cells = rows.nth(index).locator("td").all_inner_texts()
            assert cells[0] == str(entry) and cells[-1] == percent(entries["mass"][place])
            first = entry * entries["ratio"]
            text = "".join(token["text"] for token in said["tokens"][first : first + entries["ratio"]])
            assert cells[1] == visible(text)
            if entries["chosen"]:
                assert cells[2] == fixed(entries["scores"][place], 3)
    weights = page.locator(".expert-table tbody .number:last-child").all_inner_texts()
    assert weights == [fixed(one["weight"], 3) for one in layer["experts"]]
