"""The body of an upload: multipart/form-data with a file, which goes to the disk as it comes.

Nothing is kept in memory but a part of the network's and short fields. All sizes are limits, held as bytes come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import INVALID

FILE = "file"
"""The name of the field that is a file."""
MOST_FIELDS, MOST_FIELD = 16, 1024
MOST_HEADERS, MOST_HEADER = 8, 4096
"""Of a part of the form."""
MOST_AROUND = 64 * 1024
"""Bytes of a body beside its file."""
STALL_S = 60.0
"""For the next part of a body to come."""


class Sink(Protocol):
    """Where the bytes of the file go."""

    def write(self, data: bytes) -> None: ...


class Form:
    """A form that is read. `fields`: those that are texts. `name`: of the file; None where none has come."""

    def __init__(self, boundary: bytes, sink: Sink):
        self.fields: dict[str, str] = {}
        self.name: str | None = None
        self.is_complete = False
        self._sink = sink
        self._header, self._value, self._text = b"", b"", b""
        self._headers: dict[str, bytes] = {}
        self._field, self._is_file = "", False
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._on_field, "on_header_value": self._on_value,
            "on_header_end": self._on_header, "on_headers_finished": self._on_headers, "on_part_data": self._on_data,
            "on_part_end": self._on_end, "on_end": self._on_last,
        })  # fmt: skip

    def write(self, data: bytes) -> None:
        """Reads on. Raises Refused, and what the sink raises."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Refused(400, f"the form cannot be read: {error}", INVALID) from None

    def _begin(self) -> None:
        self._headers, self._text, self._field, self._is_file = {}, b"", "", False

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        """Raises Refused for headers that older versions of the parser would read without end."""
        if len(self._header) + len(self._value) > MOST_HEADER or len(self._headers) >= MOST_HEADERS:
            raise Refused(400, "the form cannot be read: a part has too large a head", INVALID)

    def _on_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition", b"").decode("latin-1"))
        self._field = options.get(b"name", b"").decode("utf-8", errors="replace")
        if kind != b"form-data" or not 0 < len(self._field) <= MOST_FIELD:
            raise Refused(400, "a part of the form has no name", INVALID)
        self._is_file = self._field == FILE
        if self._is_file and self.name is not None:
            raise Refused(400, "the form has two files; expected one", INVALID, FILE)
        if self._is_file:
            self.name = options.get(b"filename", b"").decode("utf-8", errors="replace")
        elif len(self.fields) >= MOST_FIELDS or self._field in self.fields:
            raise Refused(400, f"field {self._field[:80]!r} is one too many", INVALID, self._field[:80])

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MOST_FIELD:
            raise Refused(400, f"field {self._field[:80]!r} has more than {MOST_FIELD} bytes", INVALID,
                          self._field[:80])  # fmt: skip

    def _on_end(self) -> None:
        if not self._is_file:
            self.fields[self._field] = self._text.decode("utf-8", errors="replace")

    def _on_last(self) -> None:
        self.is_complete = True


def boundary_of(content_type: str) -> bytes:
    """Returns the boundary of a form. Raises Refused for another type."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Refused(400, "the body is no form; expected multipart/form-data with file and purpose", INVALID)
    return boundary


async def read_form(
    receive: Receive, content_type: str, declared: str | None, most: int, sink: Sink,
    in_thread: Callable[[Callable[[], None]], Awaitable[None]],
) -> Form:  # fmt: skip
    """Reads a form whose file has at most `most` bytes into `sink`. `declared`: its Content-Length, if it has one.

    Raises Refused: 400, 408, 413; and what the sink raises. What is left of a body that is refused is read and dropped,
    as much again at most, so that its client reads the answer.
    """
    try:
        form = Form(boundary_of(content_type), sink)
    except FormParserError as error:
        raise Refused(400, f"the form cannot be read: {error}", INVALID) from None
    num_declared = int(declared) if declared is not None and declared.isdecimal() else 0
    if num_declared > 2 * (most + MOST_AROUND):
        raise too_large(most)
    refused: Exception | None = too_large(most) if num_declared > most + MOST_AROUND else None
    num_bytes, is_last = 0, False
    while not is_last:
        message = await _next(receive)
        data, is_last = message.get("body", b""), not message.get("more_body", False)
        num_bytes += len(data)
        if refused is None and num_bytes > most + MOST_AROUND:
            refused = too_large(most)
        if refused is None:
            try:
                await in_thread(lambda data=data: form.write(data))  # type: ignore[misc]
            except Exception as error:
                refused = error
        elif num_bytes > 2 * (most + MOST_AROUND):
            break
    if refused is not None:
        raise refused
    if not form.is_complete:
        raise Refused(400, "the form ends before its last boundary", INVALID)
    if form.name is None:
        raise Refused(400, "the form has no file", INVALID, FILE)
    return form


def too_large(most: int) -> Refused:
    """Returns the refusal of a file of more bytes than are taken."""
    return Refused(413, f"the file is larger than {most:,} bytes, the most that is taken", "request_too_large", FILE)


async def _next(receive: Receive) -> Message:
    try:
        message = await asyncio.wait_for(receive(), STALL_S)
    except asyncio.TimeoutError:
        raise Refused(408, f"nothing of the body came for {STALL_S:g} s", "request_timeout") from None
    if message["type"] == "http.disconnect":
        raise Refused(400, "the client left before its body had come", "client_disconnected")
    return message
