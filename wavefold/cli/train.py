"""`wavefold train`: a model of the family from text, on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavefold.train.recipe import Recipe
    from wavefold.train.trainer import Progress

QUIET_S = 30.0
"""Seconds after which a step is shown where nobody sees a bar."""

HELP = "train a model on a folder of text, or on the Python standard library"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags. The recipe's defaults are the nano preset's run (docs/training.md)."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for state, log and model; resumes what is there"
    )
    parser.add_argument(
        "--data", default="stdlib",
        help="'stdlib' (the shipped file list), a folder, a .txt list of files, a .jsonl of chats, a folder of token "
        "shards, datasets:NAME[:SPLIT[:COLUMN]]; instruct: before one makes chats of its docstrings (default stdlib)",
    )  # fmt: skip
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
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")


def run(args: argparse.Namespace) -> int:
    """Train, export, evaluate the export, and write `report.json` and `curve.svg`."""
    import torch

    from wavefold.cli import training
    from wavefold.locate import config_of, model_folder

    for flag in ("threads", "extend"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ValueError(f"--{flag} {value} is not allowed; expected 1 or more")
    if args.init and args.config:
        raise ValueError(
            f"--config {args.config} is not allowed beside --init {args.init}, which has its own; leave one"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe, extend = recipe_of(args), args.extend or 0
    init = None if args.init is None else model_folder(args.init)
    options = training.Options(
        out=args.out, data=args.data, config=config_of(str(init or args.config or "nano")),
        recipe=dataclasses.replace(recipe, steps=recipe.steps + extend), dtype=args.dtype, init=init,
        transformers=args.transformers, extend=extend, force_data=args.force_data, long_chats=args.long_chats,
    )  # fmt: skip
    return training.run(options, lambda first: Reporter(options.recipe, first, args.out))


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe file's, or the default one, with what `--set` says."""
    from wavefold.train.recipe import Recipe, load_recipe
    from wavefold.train.settings import with_settings

    return with_settings(load_recipe(args.recipe) if args.recipe else Recipe(), args.set)


class Reporter:
    """Shows each step: a bar with loss, tokens/s and time left on a terminal, else a line now and then; TensorBoard."""

    def __init__(self, recipe: Recipe, first: int, out: Path):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(file=sys.stderr)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=recipe.steps, completed=first)
        self._every, self._said = max(1, recipe.steps // 50), 0.0
        if first:
            print(f"goes on from step {first}", file=sys.stderr)
        self._steps = recipe.steps
        self._board = _tensorboard(out / "tensorboard")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def __call__(self, progress: Progress) -> None:
        text = f"loss {progress.loss:.3f}  {progress.tokens_per_s:.0f} tokens/s"
        self._bar.update(self._task, completed=progress.step, description=text)
        if progress.held_out is not None:
            text += f"  held out {progress.held_out:.4f} nats a token"
        is_due = progress.step % self._every == 0 or time.monotonic() - self._said > QUIET_S
        if self._bar.disable and (is_due or progress.held_out is not None):
            print(f"step {progress.step} of {self._steps}  {text}", file=sys.stderr, flush=True)
            self._said = time.monotonic()
        if self._board is not None:
            for name, value in dataclasses.asdict(progress).items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, progress.step)


def _tensorboard(folder: Path):  # type: ignore[no-untyped-def]
    """A writer, or None, said once, where the optional dependency is absent."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard log: pip install 'wavefold[train]' for one (log.jsonl has the same)", file=sys.stderr)
        return None
    return SummaryWriter(str(folder))
