"""What a worker says of itself: its process, and why it does not go on. For whoever looks at the queue.

The file keeps its size and is written in its place: where the disk is full, and the database can take nothing, this
still can be said. Nothing depends on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from wavefold.atomic import PRIVATE, try_lock

NAME, LOCK = "worker.json", "worker.lock"
SIZE = 1024


def say(folder: Path, paused: str | None) -> None:
    """Writes what the worker does: it works (None), or has paused for a reason."""
    text = json.dumps({"process": os.getpid(), "paused": paused and paused[:600], "since": int(time.time())})
    with contextlib.suppress(OSError):
        handle = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            os.pwrite(handle, text.encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n", 0)
        finally:
            os.close(handle)


def look(folder: Path) -> dict[str, Any] | None:
    """Returns what the worker said last: process, paused, since. None where no process works on the queue."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if try_lock(handle):
            return None
    except OSError:
        return None
    finally:
        os.close(handle)
    try:
        said = json.loads((folder / NAME).read_bytes()[:SIZE])
    except (OSError, ValueError):
        return {"process": None, "paused": None, "since": None}
    return said if isinstance(said, dict) else None
