"""The output of `wavefold train`: a run's data, its steps, its result."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from wavefold.train.outcome import Outcome
from wavefold.train.recipe import Recipe
from wavefold.train.session import DataSizes, Watch
from wavefold.train.trainer import Progress

QUIET_S = 30.0
"""Seconds between two lines of progress without a terminal."""


class Screen(Watch):
    """Shows a run's data, its steps, and how far an evaluation is that takes long."""

    def __init__(self) -> None:
        self._first = self._last = 0
        self._began = self._said = 0.0

    def data(self, sizes: DataSizes) -> None:
        print(
            f"{sizes.documents} documents, {sizes.tokens} tokens to train on; {sizes.held_out_documents} held out, "
            f"{sizes.held_out_tokens} tokens"
        )

    def steps(self, first: int, recipe: Recipe, out: Path) -> Steps:
        return Steps(recipe, first, out)

    def held_out(self, number: int, of: int) -> None:
        now = time.monotonic()
        if number <= self._last or not self._last:  # another evaluation
            self._first, self._began, self._said = number, now, now
        self._last = number
        if now - self._said > QUIET_S and number < of:
            left = (now - self._began) / (number - self._first) * (of - number)
            print(f"held out: {number} of {of} batches, {left / 60:.1f} minutes left", file=sys.stderr, flush=True)
            self._said = now


class Steps:
    """Shows each step: a bar with loss, tokens/s and time left on a terminal, else a line now and then; TensorBoard."""

    def __init__(self, recipe: Recipe, first: int, out: Path):
        self._console = Console(file=sys.stderr)
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=recipe.steps, completed=first)
        self._every, self._said = max(1, recipe.steps // 50), 0.0
        if first:
            print(f"goes on from step {first}", file=sys.stderr)
        self._steps = recipe.steps
        self._board = _tensorboard(out / "tensorboard")

    def __enter__(self) -> Steps:
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
    """A writer; None, with a line on stderr, where the optional dependency is absent."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard log: pip install 'wavefold[train]' for one (log.jsonl has the same)", file=sys.stderr)
        return None
    return SummaryWriter(str(folder))


def show(outcome: Outcome, out: Path, extend: int) -> None:
    """Print the result of a run. `extend`: the steps that it was extended by."""
    if outcome.was_finished:
        print(f"{out}: is finished, {outcome.steps} steps; nothing was changed. For more steps of the same run: "
              f"--extend STEPS, more than {extend}; for another run: another --out")  # fmt: skip
        return
    report, is_text = outcome.report, "xz" in outcome.report
    if is_text:
        print(f"held-out files, {report['num_bytes']} bytes, bits per byte:")
        print(f"  model {report['model']:.3f}   xz -9 {report['xz']:.3f}   gzip -9 {report['gzip']:.3f}")
    else:
        print(f"held out: {report['nats_a_token']:.4f} nats a token")
    print(f"the model is in {outcome.model}; try: wavefold run {outcome.model} {'-p TEXT' if is_text else '--chat'}")
