"""`wavefold pull`: a model from the Hugging Face hub into the folder of models, resumable and verified."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.cli.terminal import printable
from wavefold.system.sizes import size_text

if TYPE_CHECKING:
    from wavefold.pool.pull import Told

HELP = "get a model from the Hugging Face hub into the folder of models; what was interrupted goes on"


def add_models_folder(parser: argparse.ArgumentParser) -> None:
    """Add `--models`."""
    parser.add_argument("--models", type=Path, metavar="DIR",
                        help="the folder of models (default: ~/.local/share/wavefold/models)")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME at the hub (HF_ENDPOINT), or its address; HF_TOKEN "
                        "opens what is gated or private")  # fmt: skip
    parser.add_argument("--revision", default="main", metavar="REV", help="a branch, tag or commit (default main)")
    add_models_folder(parser)
    parser.add_argument("--as", dest="name", metavar="NAME", help="its name here (default: that of the repository)")
    parser.add_argument("--include", nargs="+", action="extend", default=[], metavar="GLOB",
                        help="which of its files, where it holds several models, as '*Q4_K_M*' (default: all at its "
                        "top; only weights, JSON, tokenizers, README and licences in any case)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Pull, and say as what the model is offered."""
    from wavefold.pool.folder import entries
    from wavefold.pool.pull import pull
    from wavefold.system.folders import models_folder

    folder = args.models or models_folder()
    try:
        with _progress() as told:
            place = pull(args.repo, folder, args.name, args.revision, args.include, told, _say)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on where it was") from None
    for entry in entries(folder).values():
        if place in (entry.path, entry.path.parent):
            fault = f"; it cannot be used yet: {entry.fault}" if entry.fault else ""
            print(printable(f"{entry.name} ({entry.kind}, {size_text(entry.num_bytes)}) in {place}{fault}"))
    return 0


def _say(text: str) -> None:
    print(printable(f"wavefold: {text}"), file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Told]:
    """On a terminal a bar with the time left, else a line for each file that has come, both on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    lines = _Lines()
    is_terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_terminal) as shown:
        task = shown.add_task("", total=None)

        def told(name: str, done: int, of: int) -> None:
            shown.update(task, description=escape(printable(name)), completed=done, total=of)
            if not is_terminal:
                lines.told(name, done, of)

        yield told


class _Lines:
    """A line when the next file begins, with the time that is left at the rate so far."""

    def __init__(self) -> None:
        self.name, self.began, self.first = "", time.monotonic(), 0

    def told(self, name: str, done: int, of: int) -> None:
        if name == self.name:
            return
        if not self.name:
            self.began, self.first = time.monotonic(), done
        self.name = name
        seconds = time.monotonic() - self.began
        rate = (done - self.first) / seconds if seconds else 0.0
        left = f", {(of - done) / rate / 60:,.0f} minutes left at {rate / 1e6:,.1f} MB/s" if rate else ""
        _say(f"{name}: {size_text(done)} of {size_text(of)}{left}")
