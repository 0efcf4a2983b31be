"""`wavefold rm`: a model or an adapter leaves the folder of models."""

from __future__ import annotations

import argparse
import sys

from wavefold.cli.pull import add_models_folder
from wavefold.cli.terminal import printable
from wavefold.system.sizes import size_text

HELP = "remove a model, an adapter or an unfinished pull from the folder of models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="as `wavefold models` prints it")
    add_models_folder(parser)
    parser.add_argument("--with-adapters", action="store_true", help="of a base: its adapters in the folder too")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Ask, then remove. Returns 1 where the answer is no."""
    from wavefold.pool.remove import plan_removal, remove
    from wavefold.system.folders import models_folder

    removal = plan_removal(args.models or models_folder(), args.name, args.with_adapters)
    summary = printable(
        f"{', '.join(removal.texts)} ({size_text(removal.num_bytes)}: {', '.join(map(str, removal.paths))})"
    )
    if not args.yes:
        if not sys.stdin.isatty():
            raise ValueError(f"{args.name}: nothing is removed without being asked; give --yes")
        if input(f"remove {summary}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 1
    remove(removal)
    print(f"removed {summary}")
    return 0
