"""When each model of a folder was used last: `DIR/.wavefold/pool.json`, which `wavefold models` shows.

{"models": {NAME: {"last_used": ISO 8601, "state": "loaded" or ""}}}

A server holds a shared lock on `serving` beside it. Without one nothing is loaded, whatever a killed server left there.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from wavefold.atomic import PRIVATE, try_lock, write_json

PLACE = Path(".wavefold") / "pool.json"
SERVING = Path(".wavefold") / "serving"
MOST_BYTES = 16 << 20


def serve(folder: Path) -> int:
    """Says that a server has the folder, until the returned handle is closed. Raises OSError."""
    (folder / SERVING).parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / SERVING, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    for _ in range(50):  # who looks whether there is a server has it for a moment
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # a file system without locks
            break
    return handle


def is_served(folder: Path) -> bool:
    """True while a server has the folder."""
    try:
        handle = os.open(folder / SERVING, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


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
    """Returns what is known of each model, texts by name; nothing without the file. No state without a server.

    Raises ValueError for a damaged one.
    """
    path = folder / PLACE
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"has {path.stat().st_size:,} bytes")
        models = json.loads(path.read_bytes())["models"]
        allowed = {"last_used", "state"} if is_served(folder) else {"last_used"}
        return {
            name: {key: value for key, value in note.items() if isinstance(value, str) and key in allowed}
            for name, note in models.items() if isinstance(note, dict)
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
