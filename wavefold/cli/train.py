"""`wavefold train`: a model of the family from text, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.train.recipe import Recipe

HELP = "train a model on a folder of text, or on the Python standard library"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags. The recipe's defaults are the nano preset's run (docs/training.md)."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for state, log and model; resumes what is there"
    )
    parser.add_argument(
        "--data", default="stdlib",
        help="'stdlib' (the shipped file list), 'packages' or 'stdlib+packages' (after wavefold data fetch), a folder, "
        "a .txt list of files, a .jsonl of chats, a folder of token shards, datasets:NAME[:SPLIT[:COLUMN]], "
        "specialist:cron, specialist:dates or specialist:units (after pip install 'wavefold[specialists]'); instruct: "
        "before one makes chats of its docstrings, exercises: of its functions (default stdlib)",
    )  # fmt: skip
    parser.add_argument(
        "--last-data", metavar="SOURCE", help="what the last steps learn from, as many as last_steps of the recipe says"
    )
    parser.add_argument(
        "--long-chats", choices=("refuse", "truncate", "drop"), default="refuse",
        help="chats longer than the shortest sequence of length_stages: an error (refuse), without their earliest "
        "turns (truncate), or left out (drop); text is cut into sequences, chats never are (default refuse)",
    )  # fmt: skip
    parser.add_argument("--config", help="a preset or a config.json (default nano); with --init the model's own")
    parser.add_argument("--recipe", type=Path, help="a Python file that defines recipe = Recipe(...); it is run")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        help="other values for keys of the recipe, e.g. steps=100; of a key that comes twice the last value counts",
    )
    parser.add_argument("--init", type=Path, metavar="MODEL", help="begin with the weights of this checkpoint")
    parser.add_argument(
        "--extend", type=int, metavar="STEPS",
        help="go on with the run in OUT for so many steps beyond those of its recipe",
    )  # fmt: skip
    parser.add_argument(
        "--force-data", action="store_true", help="go on with the run in OUT on other data; the log says so"
    )
    parser.add_argument("--transformers", action="store_true", help="write the model in transformers' layout too")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="activations (bfloat16)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Train, and show progress and result."""
    import torch

    from wavefold.cli.flags import as_flags
    from wavefold.cli.train_screen import Screen, show
    from wavefold.train.session import train

    with as_flags():
        outcome = train(
            args.out, args.data, args.config, recipe_of(args), args.init, getattr(torch, args.dtype), args.threads,
            args.extend, args.force_data, args.long_chats, args.transformers, Screen(), args.last_data,
        )  # fmt: skip
    if outcome is not None:
        show(outcome, args.out, args.extend or 0)
    return 0


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe of `--recipe`, or the default one, with the values of `--set`."""
    from wavefold.train.recipe import Recipe, load_recipe
    from wavefold.train.settings import with_settings

    return with_settings(load_recipe(args.recipe) if args.recipe else Recipe(), args.set)
