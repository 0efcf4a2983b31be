"""A client of a few lines for many connections at once: one request each, as a stream or whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple


class Answered(NamedTuple):
    """`data`: the body, without the marks of its chunks."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def frames(self) -> list[Any]:
        parts = (part for part in self.data.split(b"\n\n") if part.startswith(b"data: "))
        return [json.loads(part[6:]) for part in parts if part != b"data: [DONE]"]


async def ask(port: int, path: str, body: Any, leave_after: int | None = None, **headers: str) -> Answered | None:
    """Posts a body and reads the answer. `leave_after`: bytes after which the client leaves; then None is returned."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", f"host: localhost:{port}", f"content-length: {len(data)}",
                 "connection: close", *(f"{name}: {value}" for name, value in headers.items())]  # fmt: skip
        writer.write("\r\n".join((*lines, "", "")).encode() + data)
        await writer.drain()
        if leave_after is not None:
            if leave_after:
                await reader.read(leave_after)
            return None
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-1])}
        chunked = fields.get("transfer-encoding") == "chunked"
        parts = [part async for part in _chunks(reader)] if chunked else [await reader.read()]
        return Answered(int(head[0].split()[1]), fields, b"".join(parts))
    finally:
        writer.close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).strip() or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
