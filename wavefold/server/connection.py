"""A connection of uvicorn's with limits on clients that neither send nor read: none of them stays for ever."""

from __future__ import annotations

import asyncio
import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 15.0
"""For the head of a request, from its first byte on, or from the connection's first moment on."""
STALL_S = 120.0
"""For a client to read something, while more than a buffer of its answer waits."""
LATE_S = 1.0
"""A clock that rings later than this was stopped itself, with its process or machine: the client gets its time anew."""


class Clock:
    """Ends a connection unless it is stopped within its time. Starting it again while it runs changes nothing."""

    def __init__(self, protocol: H11Protocol, seconds: float):
        self._protocol, self._seconds = protocol, seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._timer is None:
            self._timer = self._protocol.loop.call_later(self._seconds, self._ring)

    def _ring(self) -> None:
        late = self._timer is not None and self._protocol.loop.time() - self._timer.when() > LATE_S
        self._timer = None
        if late:
            self.start()
        else:
            self._end()

    def _end(self) -> None:
        """Resets the connection: else the system would keep what was not read, and tell the client nothing."""
        connection = self._protocol.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._protocol.transport.abort()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connection(H11Protocol):
    """Ends where a head does not come in time, where nothing is read for long, and where nobody reads the last bytes.

    uvicorn itself ends a connection that is idle between two requests.
    """

    request_s, stall_s = REQUEST_S, STALL_S
    is_lost = False
    """Then no clock begins: uvicorn's own for an idle connection rings on after a client's reset."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head, self._stall = Clock(self, self.request_s), Clock(self, self.stall_s)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def _await_head(self) -> None:
        """Starts or stops the clock of a request's head. What comes after an answer, of a body too, is under it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._head.stop()
        elif not self.transport.is_closing():
            self._head.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if not self.is_lost:
            self._stall.start()  # what has not been read yet keeps a closed connection open

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._head.stop()
        self._stall.stop()
        super().connection_lost(exc)
