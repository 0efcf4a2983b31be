"""A run's folder: where it may lie, which process holds it, and what it leaves there where it is refused: nothing.

OUT holds state/, log.jsonl, tokenizer.json, then model/, adapters, curve.svg, and report.json, which is written last:
it says that the run is finished.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from wavefold.atomic import holding, sweep
from wavefold.checkpoint.side_files import side_files
from wavefold.checkpoint.write import check_replaceable
from wavefold.train.state import sweep_states
from wavefold.train.texts import INSTRUCT, SOURCE
from wavefold.waves.agreement import agreed
from wavefold.waves.group import Group

LOCK = ".lock"
REPORT = "report.json"
WRITTEN = ("model", "adapter", "transformers", SOURCE, "tokenizer.json", "tokenizer_config.json", "log.jsonl", REPORT)
"""What a run writes into OUT in one step each."""


def check_places(out: Path, data: str, init: Path | None) -> None:
    """Raises ValueError for folders that a run would train on, overwrite, or find full at its end."""
    place = out.resolve()
    if place.exists() and not place.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    if (place / "config.json").is_file():
        raise ValueError(f"--out {out}: holds a checkpoint; give a folder for the run, which gets model/ in it")
    if init is not None and (init.resolve().is_relative_to(place) or place.is_relative_to(init.resolve())):
        raise ValueError(f"--init {init} and --out {out} lie in each other; copy the model out of the run first")
    source = Path(data.removeprefix(INSTRUCT))
    if source.is_dir() and place.is_relative_to(source.resolve()):
        raise ValueError(f"--out {out} lies in --data {source}, and would be trained on; give another --out")
    for name in ("model", "transformers"):
        check_replaceable(out / name)
    if init is not None:
        list(side_files(init))  # too large ones are refused now


@contextlib.contextmanager
def held_by(group: Group, out: Path) -> Iterator[None]:
    """Hold the run's folder `out`, made where it is missing, for this group of processes; sweep what killed runs left.

    A run that fails before it has written anything removes what was made here. Raises ValueError, in all processes,
    where another run holds the folder.
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
    """Make the folder `out`. Where the block fails and nothing is in the folder but a new lock, all is as it was."""
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
    """The digest of the run that the report in `out` is of; None where there is none."""
    try:
        return str(json.loads((out / REPORT).read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
