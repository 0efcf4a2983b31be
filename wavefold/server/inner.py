"""A request to the server's own application from inside its process: checked and answered as any client's.

It does not pass the front: nobody asks from outside, so there are no keys and hosts to check. It has a line of the log.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from starlette.types import ASGIApp, Message

from wavefold.server.line import Line


class Inner(NamedTuple):
    """An answer as it came."""

    status: int
    body: bytes


async def post(app: ASGIApp, path: str, body: bytes, line: Line) -> Inner:
    """Posts JSON to a path. A cancellation ends the request, as a client that leaves does."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": None, "server": None,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "state": {}, "wavefold.line": line,
    }  # fmt: skip
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    parts: list[bytes] = []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()  # it never leaves

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            line.status = message["status"]
        else:
            parts.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        if line.status < 500:  # else it has been answered, and raised for the log
            raise
    return Inner(line.status, b"".join(parts))
