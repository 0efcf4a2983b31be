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
MOST_BYTES = 16 << 20


def write_last_used(folder: Path, states: Mapping[str, str], used: Mapping[str, float]) -> None:
    """Writes states and times (seconds since 1970) by name; what is known of others stays. Raises OSError."""
    try:
        known = read_last_used(folder)
    except ValueError:  # a damaged file is written anew
        known = {}
    for name in {*states, *used}:
        entry = known.setdefault(name, {})
        entry["state"] = states.get(name, "")
        if name in used:
            entry["last_used"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(used[name]))
    (folder / PLACE).parent.mkdir(mode=0o700, exist_ok=True)
    write_json(folder / PLACE, {"models": known})


def read_last_used(folder: Path) -> dict[str, dict[str, str]]:
    """Returns what is known of each model, texts by name; nothing without the file.

    Raises ValueError for a damaged one.
    """
    path = folder / PLACE
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"has {path.stat().st_size:,} bytes")
        models = json.loads(path.read_bytes())["models"]
        return {
            name: {key: value for key, value in note.items() if isinstance(value, str)}
            for name, note in models.items() if isinstance(note, dict)
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
