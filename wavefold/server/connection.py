"""A connection of uvicorn's with limits on clients that neither send nor read: none of them stays for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 15.0
"""For the head of a request, from its first byte on, or from the connection's first moment on."""
STALL_S = 120.0
"""For a client to read something, while more than a buffer of its answer waits."""


class Connection(H11Protocol):
    """Ends where a head does not come in time, where nothing is read for long, and where nobody reads the last bytes.

    uvicorn itself ends a connection that is idle between two requests.
    """

    request_s, stall_s = REQUEST_S, STALL_S
    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def _await_head(self) -> None:
        """Starts or stops the clock of a request's head. What comes after an answer, of a body too, is under it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(self.request_s, self.transport.abort)

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall()

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self._stall is None:  # what has not been read yet keeps a closed connection open
            self._stall = self.loop.call_later(self.stall_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head()
        self._stop_stall()
        super().connection_lost(exc)
