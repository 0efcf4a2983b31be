"""What `wavefold models` tells of a folder: its models, where they came from, and when they were last used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from wavefold.pool.folder import entries
from wavefold.pool.last_used import read_last_used
from wavefold.pool.pull import PART, UNFINISHED
from wavefold.pool.record import Record, load_record
from wavefold.system import Notice


@dataclass(frozen=True)
class Line:
    """A model of a folder. `kind`: of its entry, or "unfinished" for a pull that was interrupted.

    `num_bytes` are on the disk, `full_bytes` will be. `folder` holds what belongs to the model, as a card; None for a
    GGUF file alone. `last_used`: ISO 8601.
    """

    name: str
    kind: str
    path: Path
    num_bytes: int
    full_bytes: int
    folder: Path | None = None
    base: str | None = None
    last_used: str | None = None
    state: str | None = None
    record: Record | None = None
    fault: str = ""


def overview(folder: Path) -> list[Line]:
    """Returns a line for each model and each unfinished pull, in the order of names.

    Raises ValueError for what is no folder. Warns with a Notice where the server's notes cannot be read.
    """
    lines = []
    notes = _notes(folder)
    for entry in entries(folder).values():
        place = entry.path if entry.path.is_dir() else entry.path.parent
        inside = None if place == folder else place
        record, fault = _origin(inside)
        note = notes.get(entry.name, {})
        lines.append(Line(
            entry.name, entry.kind, entry.path, entry.num_bytes, entry.num_bytes, inside, entry.base,
            note.get("last_used"), note.get("state"), record, entry.fault or fault,
        ))  # fmt: skip
    for staging in sorted(folder.glob(f".*{UNFINISHED}")):
        record, fault = _origin(staging)
        if record is not None or fault:
            there = sum(_size(staging, name) for name in record.files) if record is not None else 0
            name = staging.name[1:].removesuffix(UNFINISHED)
            full = record.num_bytes if record is not None else 0
            lines.append(Line(name, "unfinished", staging, there, full, staging, record=record, fault=fault))
    return lines


def _origin(folder: Path | None) -> tuple[Record | None, str]:
    try:
        return (None if folder is None else load_record(folder)), ""
    except ValueError as error:
        return None, str(error)


def _size(staging: Path, name: str) -> int:
    paths = (staging / name, staging / (name + PART))
    return next((path.stat().st_size for path in paths if path.is_file()), 0)


def _notes(folder: Path) -> dict[str, dict[str, str]]:
    try:
        return read_last_used(folder)
    except ValueError as error:
        warnings.warn(f"{error}; last uses are not shown", Notice, stacklevel=3)
        return {}
