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

Offer = str | list[str] | None
"""The folder of models that a worker answers with, or their names; None: not known."""
NAME, LOCK = "worker.json", "worker.lock"
SIZE = 4096
"""Bytes of the file: one block of a disk."""
MOST_WORDS = 600


def say(folder: Path, paused: str | None, offer: Offer = None) -> None:
    """Writes what the worker does: it works (None), or has paused for a reason. `offer`: what it can be asked for."""
    values = {"process": os.getpid(), "paused": paused and paused[:MOST_WORDS], "since": int(time.time()),
              "offer": offer}  # fmt: skip
    if len(text := json.dumps(values)) >= SIZE:
        text = json.dumps({**values, "offer": None})
    with contextlib.suppress(OSError):
        handle = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            os.pwrite(handle, text.encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n", 0)
        finally:
            os.close(handle)


def look(folder: Path) -> dict[str, Any] | None:
    """Returns what the worker said last: process, paused, since, offer. None where no process works on the queue."""
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
        return {"process": None, "paused": None, "since": None, "offer": None}
    return said if isinstance(said, dict) else None
