"""A server of a model from its first connection to its last: uvicorn, and an end within a time.

SIGTERM -> no new connection, new requests 503 -> what runs goes on -> after `drain_s` it is ended with an error that
its client is told -> the engine stops. A second signal ends at once, and the process
after LAST_S seconds in any case, with 128 + the signal's number: a model that is being loaded cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from wavefold.server.connection import Connection
from wavefold.server.served import Served

DRAIN_S = 30.0
KEEP_ALIVE_S = 75
"""Of a connection between two requests: longer than clients keep theirs, so that the client is the one to close it."""
LAST_S = 3
"""After the engine has stopped, for the last bytes."""
BACKLOG = 2048
SEND_BUFFER = 128 * 1024
"""Bytes of an answer in the system, which would take megabytes of a client that reads nothing before it is felt."""


class Server(uvicorn.Server):
    """Runs the application of a model. `drain_s`: from the first signal until what runs is ended."""

    def __init__(self, app: ASGIApp, served: Served, drain_s: float = DRAIN_S):
        config = uvicorn.Config(
            app, http=Connection, ws="none", loop="asyncio", lifespan="on", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(drain_s) + LAST_S, h11_max_incomplete_event_size=64 * 1024,
        )  # fmt: skip
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._served, self._drain_s = served, drain_s
        self.signal: int | None = None
        """The one that ended it."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._served.is_draining = True
        ending = asyncio.ensure_future(self._end_later())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            await self._served.stop()  # a second signal has skipped the application's own end

    async def _end_later(self) -> None:
        await asyncio.sleep(self._drain_s)
        await self._served.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server, and nothing else: uvicorn would raise them once more, before files are closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signal = sig
        self.force_exit, self.should_exit = self.should_exit, True
        if self.force_exit:  # what is cancelled then is no error
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            last = threading.Timer(LAST_S, os._exit, (128 + sig,))
            last.daemon = True
            last.start()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Raises ValueError for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ValueError(f"host = {host} and port = {port} cannot be listened to ({error})") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # its connections inherit it
    return listening


def more_files() -> None:
    """Lets this process have as many open connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))


def settle() -> None:
    """Leaves all objects that there are out of garbage collections, since they last.

    A body of many values makes Python collect again and again while it is read: 8 MB of brackets took 2.1 s, with this
    0.4 s.
    """
    gc.collect()
    gc.freeze()
