"""The bodies of requests: read with limits on one, on all together, and on the time."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from wavefold.server.engine import STOPPED
from wavefold.server.protocol import Refused

BODY_S = 60.0
"""For the whole of a body."""
TOGETHER = 4
"""Bodies of the greatest size that may be in memory at a time."""
DRAINED = 2
"""What is beyond the limit is read and dropped up to so many times it, so that the client reads the answer."""


class Bodies:
    """Reads bodies of at most `most` bytes. All that are in memory have at most `TOGETHER` times as many."""

    def __init__(self, most: int, seconds: float = BODY_S):
        self.most, self._seconds = most, seconds
        self.num_bytes = 0
        """Of all that are in memory."""
        self._reading: set[asyncio.Task[bytes]] = set()
        self._has_ended = False

    def end(self) -> None:
        """No more is read, of any body."""
        self._has_ended = True
        for reading in list(self._reading):
            reading.cancel()

    async def read(self, receive: Receive, declared: str | None) -> bytes:
        """Returns the body of a request; `release` gives its room back. `declared`: its Content-Length, if it has one.

        Raises Refused: 413 for one that is too large, 408 for one that does not come in time, 503 where bodies of
        others leave no room and at the server's end, 400 for a client that left.
        """
        num_declared = int(declared) if declared is not None and declared.isdecimal() else 0
        if num_declared > self.most * DRAINED:
            raise self._too_large()
        chunks: list[bytes] = []
        reading = asyncio.ensure_future(self._read(receive, chunks, num_declared > self.most))
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        try:
            return await asyncio.wait_for(reading, self._seconds)
        except asyncio.TimeoutError:
            self.release(chunks)
            raise Refused(408, f"the body did not come within {self._seconds:g} s", "request_timeout") from None
        except BaseException as error:
            self.release(chunks)
            if isinstance(error, asyncio.CancelledError) and self._has_ended:
                raise Refused(503, STOPPED, "overloaded") from None
            raise

    async def _read(self, receive: Receive, chunks: list[bytes], is_too_large: bool) -> bytes:
        num_bytes = num_dropped = 0
        refused: Refused | None = self._too_large() if is_too_large else None
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the client left before its body had come", "client_disconnected")
            chunk: bytes = message.get("body", b"")
            num_bytes += len(chunk)
            if num_bytes > self.most:
                refused = self._too_large()
            elif refused is None and self.num_bytes + len(chunk) > TOGETHER * self.most:
                refused = Refused(503, "bodies of other requests take all the room there is; try again", "overloaded")
            if refused is None:
                chunks.append(chunk)
                self.num_bytes += len(chunk)
            else:  # a client that is still writing does not read the answer
                self.release(chunks)
                chunks.clear()
                num_dropped += len(chunk)
            if not message.get("more_body", False) or num_dropped > DRAINED * self.most:
                break
        if refused is not None:
            raise refused
        return b"".join(chunks)

    def release(self, chunks: list[bytes]) -> None:
        """Gives back the room of a body, or of its parts."""
        self.num_bytes -= sum(map(len, chunks))

    def _too_large(self) -> Refused:
        message = f"the body is larger than {self.most:,} bytes, the most that is read (--max-body)"
        return Refused(413, message, "request_too_large")
