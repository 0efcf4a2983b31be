"""The circumstances that a figure needs beside it: hardware, software, commit, repeats."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from wavefold import __version__, ops
from wavefold.ops import native
from wavefold.system import cpu_name

ROOT = Path(__file__).resolve().parents[2]


def circumstances(repeats: int) -> dict[str, object]:
    """The circumstances of a measurement, for its JSON lines. The commit is None outside a checkout."""
    return {
        "hardware": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "wavefold": __version__,
        "commit": commit(),
        "repeats": repeats,
    }


def kernels_in_use() -> str:
    """Returns a name for the CPU kernels that run: their instruction set, and their tuning.

    Raises ValueError where there are no kernels.
    """
    if not native.available():
        raise ValueError(
            "no CPU kernels to measure: WAVEFOLD_NATIVE is 0, or they were not built; install wavefold again"
        )
    return described(ops.current())


def described(runtime: ops.Runtime) -> str:
    """Returns the instruction set and the tuning of a runtime; says so where there are no kernels."""
    return f"{runtime.isa} ({runtime.tuning})" if native.available() else "none"


def commit() -> str | None:
    """The checkout's commit, with "+changes" where the package differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "wavefold"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def append(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Append `lines` to the file `path`, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
