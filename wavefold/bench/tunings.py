"""Measured tunings, each for one identity: processor, threads, torch, version of the library, instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wavefold.ops.native.library import ABI
from wavefold.ops.tuning import Tuning
from wavefold.plan import measured
from wavefold.system import cpu_name

SECTION = "tunings"
Identity = dict[str, Any]


def identity(threads: int, isa: str) -> Identity:
    """Returns the values on which a tuning depends."""
    return {"cpu": cpu_name(), "threads": threads, "torch": torch.__version__, "abi": ABI, "isa": isa}


def stored(path: Path, wanted: Identity) -> Tuning | None:
    """Returns the tuning in the file `path` of this identity. None where there is none that can be used."""
    for entry in _entries(path):
        if entry.get("identity") == wanted:
            try:
                return Tuning(**entry["tuning"]).checked()
            except (KeyError, TypeError, ValueError):  # of another release, or changed by hand
                return None
    return None


def keep(path: Path, wanted: Identity, tuning: Tuning) -> None:
    """Writes the tuning of this identity to the file `path`, in place of an older one."""
    others = [entry for entry in _entries(path) if entry.get("identity") != wanted]
    measured.keep(path, SECTION, [*others, {"identity": wanted, "tuning": tuning._asdict()}])


def _entries(path: Path) -> list[dict[str, Any]]:
    entries = measured.read(path).get(SECTION)
    return [entry for entry in entries if type(entry) is dict] if type(entries) is list else []
