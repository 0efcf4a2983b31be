"""When each model of a folder was used last: `DIR/.wavefold/pool.json`, which `wavefold models` shows.

{"models": {NAME: {"last_used": ISO 8601, "state": "loaded" or ""}}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from wavefold.atomic import write_json

PLACE = Path(".wavefold") / "pool.json"


def write_last_used(folder: Path, states: Mapping[str, str], used: Mapping[str, float]) -> None:
    """Writes states and times (seconds since 1970) by name; what is known of others stays. Raises OSError."""
    known = read_last_used(folder)
    for name in {*states, *used}:
        entry = known.setdefault(name, {})
        entry["state"] = states.get(name, "")
        if name in used:
            entry["last_used"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(used[name]))
    (folder / PLACE).parent.mkdir(mode=0o700, exist_ok=True)
    write_json(folder / PLACE, {"models": known})


def read_last_used(folder: Path) -> dict[str, dict[str, str]]:
    """Returns what is known of each model; nothing where the file is missing or is not one."""
    try:
        models = json.loads((folder / PLACE).read_bytes())["models"]
        return {str(name): {str(key): str(value) for key, value in entry.items()} for name, entry in models.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
