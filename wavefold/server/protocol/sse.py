"""Server-sent events: the frames of a stream. A frame ends with an empty line, the last one too."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


def dumped(value: Any) -> str:
    """JSON on one line, without blanks. Raises ValueError for NaN: it is no JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def frame(data: str, event: str | None = None) -> bytes:
    """Returns the frame of a text of one line."""
    return f"data: {data}\n\n".encode() if event is None else f"event: {event}\ndata: {data}\n\n".encode()


def comment(text: str) -> bytes:
    """Returns a frame that clients skip."""
    return f": {text}\n\n".encode()
