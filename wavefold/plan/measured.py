"""The file of what was measured of this machine: rates (plan/machine.py) and tunings of the kernels (bench/tunings.py).

One JSON object in the user's cache folder, a section for each. A file of another layout counts as empty.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from wavefold import atomic


def read(path: Path) -> dict[str, Any]:
    """Returns the sections of the file `path`; none where it is missing or holds something else."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(path.read_text())
        if type(values) is dict:
            return values
    return {}


def keep(path: Path, section: str, values: object) -> None:
    """Writes a section of the file `path` in one step, mode 0600, and leaves the others as they are."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    atomic.write_json(path, read(path) | {section: values})
