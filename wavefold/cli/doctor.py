"""`wavefold doctor`: what is wrong with a model's file, or with this machine: a card of pass, fail and skipped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.locate import model_path

if TYPE_CHECKING:
    from wavefold.doctor import Card

HELP = "find what is wrong with a model's file, or with this machine"
COLOURS = {"pass": "green", "fail": "red", "skipped": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="FILE",
                        help="a checkpoint folder or a GGUF file (default: the model that ships)")  # fmt: skip
    parser.add_argument("--against", type=Path, metavar="MODEL",
                        help="another file of the same model, as the official folder: each tensor is held against "
                        "it")  # fmt: skip
    parser.add_argument(
        "--memory", metavar="SIZE", help="the most resident memory, as 24G (default: as `wavefold run`)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S",
                        help="after which what can be left out is, and the card says so (default 60)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the card as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine the file and print the card. Returns 1 if anything failed."""
    from wavefold.atomic import write_json
    from wavefold.doctor import Patient, examine

    path = model_path(args.model)
    other = None if args.against is None else model_path(args.against)
    if not 0 < args.seconds < float("inf"):
        raise ValueError(f"--seconds {args.seconds} is not allowed; expected a number above 0")
    if args.json is not None and not args.json.parent.is_dir():
        raise ValueError(f"--json {args.json}: no such folder {args.json.parent}")
    card = _shown(lambda on_check: examine(Patient(path, other, args.memory, args.seconds), on_check))
    print_card(card)
    if args.json is not None:
        write_json(args.json, card.values())
    return 0 if card.is_healthy else 1


def _shown(examined: Callable[[Callable[[str, int, int], None]], Card]) -> Card:
    """Runs with a bar on stderr: the check that runs, and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task("", total=None)
        return examined(lambda name, done, of: shown.update(task, description=name, completed=done, total=of))


def print_card(card: Card) -> None:
    """Print the findings, and what to do about the failures."""
    from rich.markup import escape
    from rich.table import Table

    from wavefold.cli.terminal import printable, wide_console

    console = wide_console(160)
    table = Table("", "check", "part", "what was found", title=escape(printable(card.path)))
    for finding in card.findings:
        status = f"[{COLOURS[finding.status]}]{finding.status}[/]"
        advice = f" -> {finding.advice}" if finding.advice else ""
        table.add_row(
            status, finding.check, *(escape(printable(text)) for text in (finding.part, finding.text + advice))
        )
    console.print(table)
    counts = {status: sum(finding.status == status for finding in card.findings) for status in COLOURS}
    console.print(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped in {card.seconds:.0f} s"
    )
