"""`--tuning`: the flag's, else WAVEFOLD_TUNING's, else what was measured of this machine, else the usual one."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wavefold.system.folders import cache_folder

if TYPE_CHECKING:
    from wavefold.bench.tune import Found
    from wavefold.ops.tuning import Tuning

TURNS = 3


def add_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tuning", metavar="usual|FIELD=VALUE,...",
                        help="how the CPU kernels feed themselves: fields hint, ahead, few_rows, float_rows, "
                        "plain_hint (default: WAVEFOLD_TUNING, else what `wavefold bench tune` found here, "
                        "else the usual)"
    )  # fmt: skip


def measured_path() -> Path:
    """The file of this machine's measurements."""
    return cache_folder() / "machine.json"


@contextlib.contextmanager
def tuned(text: str | None, threads: int | None, measures: bool, alone: bool = True) -> Iterator[None]:
    """A block whose runtimes have the tuning of `--tuning`, or the one that holds without it.

    `threads`: their number (None: torch's). `measures`: a machine that nobody has measured is. Several processes
    (`alone` False) take no stored one: all need the same. Raises ValueError for a text that is no tuning.
    """
    from wavefold import ops
    from wavefold.ops import native

    if not native.available():
        if text is not None:
            raise ValueError(f"--tuning {text} needs the CPU kernels, which are not loaded; leave it out")
        yield
        return
    with ops.using(tuning=_tuning_of(text, threads, measures, alone)):
        yield


def _tuning_of(text: str | None, threads: int | None, measures: bool, alone: bool) -> Tuning | None:
    from wavefold import ops
    from wavefold.ops.tuning import VARIABLE, Tuning, default

    if text is not None:
        try:
            return Tuning.parse(text)
        except ValueError as error:
            raise ValueError(f"--tuning {text}: {error}") from None
    if os.environ.get(VARIABLE):
        return default()
    if not alone or ops.current().backend == "reference":
        return None
    found = stored_tuning(threads)
    if found is None and measures:
        found = measure(threads, TURNS).chosen
    return found


def stored_tuning(threads: int | None) -> Tuning | None:
    """The tuning that was measured of this machine with so many threads (None: torch's number)."""
    import torch

    from wavefold import ops
    from wavefold.bench.tunings import identity, stored

    return stored(measured_path(), identity(threads or torch.get_num_threads(), ops.isas()[0]))


def measure(threads: int | None, turns: int, full: bool = False) -> Found:
    """Measures this machine's tuning and writes it down; `full`: times every hint at every distance too."""
    import torch

    from wavefold import ops
    from wavefold.bench import stopwatch, tune
    from wavefold.bench.tunings import identity, keep
    from wavefold.ops.tuning import TWO_WAYS, usual

    def report(step: str) -> None:
        print(f"measuring the kernels' tuning: {step}", file=sys.stderr)

    count, isa = threads or torch.get_num_threads(), ops.isas()[0]
    report("drawing weights")
    watch = stopwatch.Stopwatch(count, tune.FORMS)
    found = tune.tune(watch, usual(isa), isa in TWO_WAYS, turns, report)
    keep(measured_path(), identity(count, isa), found.chosen)
    if full:
        found.full = tune.sweep(watch, found, 2 * turns, report)
    return found
