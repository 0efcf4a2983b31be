"""`wavefold models`: the models of a folder, with what is known of each."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavefold.cli.terminal import printable, wide_console
from wavefold.system.sizes import size_text

if TYPE_CHECKING:
    from wavefold.pool.overview import Line
    from wavefold.quality.statistics import Figure

HELP = "list the models of a folder: size, quality card, last use, origin, faults"
CARD = "card.json"
MAIN_FIGURE = ("text", "bits per byte")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR",
                        help="the folder of models (default: ~/.local/share/wavefold/models)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace) -> int:
    from wavefold.pool.overview import overview
    from wavefold.system.folders import models_folder

    folder = args.folder or models_folder()
    lines = overview(folder) if args.folder is not None or folder.exists() else []
    if args.json:
        print(json.dumps([_values(line) for line in lines], indent=1))
    elif lines:
        _print_table(lines)
    else:
        print(printable(f"no models in {folder}; copy some there, or get one with `wavefold pull OWNER/NAME`"))
    return 0


def _print_table(lines: list[Line]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("name", "kind", "size", "quality card", "last use", "from", ""):
        table.add_column(
            title, justify="right" if title == "size" else "left", no_wrap=title == "name", overflow="fold"
        )
    for line in lines:
        figure, fault = _card(line)
        size = (
            size_text(line.num_bytes)
            if line.kind != "unfinished"
            else f"{size_text(line.num_bytes)} of {size_text(line.full_bytes)}"
        )
        used = " ".join(filter(None, (_local(line.last_used), f"({line.state})" if line.state else "")))
        cells = (
            line.name, line.kind, size, _words(figure), used or "-", line.record.origin if line.record else "-",
            "; ".join(filter(None, (line.fault, fault))),
        )  # fmt: skip
        table.add_row(*(escape(printable(cell)) for cell in cells))
    wide_console(240).print(table)


def _values(line: Line) -> dict[str, Any]:
    figure, fault = _card(line)
    record = line.record
    return {
        "name": line.name, "kind": line.kind, "path": str(line.path), "base": line.base, "bytes": line.num_bytes,
        "full_bytes": line.full_bytes,
        "card": None if figure is None else {"figure": figure.name, "of": figure.of, "value": figure.value},
        "last_used": line.last_used, "state": line.state,
        "pulled": None if record is None else {
            "repo": record.repo, "revision": record.revision, "commit": record.commit, "time": record.time,
        },
        "faults": [text for text in (line.fault, fault) if text],
    }  # fmt: skip


def _card(line: Line) -> tuple[Figure | None, str]:
    """The key figure of a model's quality card, and what is wrong with the card.

    A card lies in the model's folder, or beside the model in NAME.quality, as `wavefold quality` names it.
    """
    place = line.folder or line.path
    beside = place.with_name(f"{place.name.removesuffix('.gguf')}.quality")
    for folder in (line.folder, beside):
        if folder is None or not (folder / CARD).is_file():
            continue
        from wavefold.quality.card import Card  # imports torch

        try:
            card = Card.load(folder)
        except ValueError as error:
            return None, str(error)
        return card.find(*MAIN_FIGURE) or next(iter(card.figures), None), ""
    return None, ""


def _words(figure: Figure | None) -> str:
    if figure is None:
        return "none"
    from wavefold.quality.tables import number

    return f"{number(figure.value)} {figure.name}"


def _local(moment: str | None) -> str:
    """A moment in ISO 8601 as the local time, to the minute; as it is where it is none."""
    if moment is None:
        return ""
    try:
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return moment
