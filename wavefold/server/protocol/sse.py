"""Server-sent events: the frames of a stream. A frame ends with an empty line, the last one too."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_PLACE = "\0"
"""Stands for a text that comes later. No text in a frame is this one."""


def dumped(value: Any) -> str:
    """JSON on one line, without blanks. Raises ValueError for NaN: it is no JSON."""
    return _ENCODER.encode(value)


def frame(data: str, event: str | None = None) -> bytes:
    """Returns the frame of a text of one line."""
    return f"data: {data}\n\n".encode() if event is None else f"event: {event}\ndata: {data}\n\n".encode()


def comment(text: str) -> bytes:
    """Returns a frame that clients skip."""
    return f": {text}\n\n".encode()


class Frames:
    """Frames that differ in one text: the rest is written once. `value_of` gives the value with a text in it."""

    def __init__(self, value_of: Callable[[str], Any]):
        self._before, self._after = frame(dumped(value_of(_PLACE))).split(dumped(_PLACE).encode())

    def of(self, text: str) -> bytes:
        """Returns the frame with `text`."""
        return self._before + dumped(text).encode() + self._after
