"""The folder of a run: its allowed places, its lock, and its files. A refused run leaves nothing there.

OUT has state/, log.jsonl, tokenizer.json, then model/, adapters, curve.svg, and report.json. The report is written last
and marks the run as finished.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from wavefold.atomic import holding, sweep
from wavefold.checkpoint.side_files import side_files
from wavefold.checkpoint.write import check_replaceable
from wavefold.data.corpus import folders_of
from wavefold.train.peft_layout import check_replaceable_adapter
from wavefold.train.state import sweep_states
from wavefold.train.texts import SOURCE, asked_about
from wavefold.waves.agreement import agreed
from wavefold.waves.group import Group

LOCK = ".lock"
REPORT = "report.json"
WRITTEN = ("model", "adapter", "transformers", SOURCE, "tokenizer.json", "tokenizer_config.json", "log.jsonl", REPORT)
"""Files and folders of OUT that a run writes atomically."""


def check_places(out: Path, sources: Sequence[str], init: Path | None, adapts: bool = False) -> None:
    """Raises ValueError for an `out` that overlaps inputs of the run or has files that may not be replaced.

    `adapts`: True if the run writes an adapter.
    """
    place = out.resolve()
    if place.exists() and not place.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    if (place / "config.json").is_file():
        raise ValueError(f"--out {out}: holds a checkpoint; give a folder for the run, which gets model/ in it")
    if init is not None and (init.resolve().is_relative_to(place) or place.is_relative_to(init.resolve())):
        raise ValueError(f"--init {init} and --out {out} lie in each other; copy the model out of the run first")
    for folder in (folder.resolve() for data in sources for folder in folders_of(asked_about(data)[1])):
        if place.is_relative_to(folder):
            raise ValueError(f"--out {out} lies in the data {folder}, and would be trained on; give another --out")
    for name in ("model", "transformers"):
        check_replaceable(out / name)
    if adapts:
        check_replaceable_adapter(out / "adapter")
    if init is not None:
        list(side_files(init))  # raises now if one is too large


@contextlib.contextmanager
def held_by(group: Group, out: Path) -> Iterator[None]:
    """Locks the folder `out` for this group of processes. Creates it if missing, and removes leftovers of killed runs.

    A run that fails before it has written anything removes the folders that were created here. Raises ValueError, in
    all processes, if another run has the lock.
    """
    with contextlib.ExitStack() as stack:

        def hold() -> tuple[None, dict[str, object]]:
            if group.first:
                stack.enter_context(_removed_unless_used(out))
                try:
                    stack.enter_context(holding(out / LOCK))
                except ValueError as error:
                    raise ValueError(
                        f"{error}; a run is going on in {out}: wait for it, or give another --out"
                    ) from None
            return None, {}

        agreed(hold)
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if group.first:
            sweep_states(out / "state")
            for name in WRITTEN:
                sweep(out / name)
        group.wait()
        yield


@contextlib.contextmanager
def _removed_unless_used(out: Path) -> Iterator[None]:
    """Creates the folder `out`. Removes it again if the block fails and it has nothing but a new lock."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    had_lock = (out / LOCK).exists()
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        yield
    except BaseException:
        if not had_lock and [path.name for path in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink()
        with contextlib.suppress(OSError):  # not empty
            for folder in missing:
                folder.rmdir()
        raise


def run_reported(out: Path) -> str | None:
    """Returns the run digest in the report of `out`, or None without a report."""
    try:
        return str(json.loads((out / REPORT).read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
