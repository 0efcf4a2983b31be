"""A server on a port of its own, in a thread, and plain sockets that speak to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.server.scripted import SCRIPTED
from wavefold import LLM
from wavefold.server.app import Limits, new_app
from wavefold.server.contexts import context_for
from wavefold.server.line import Line
from wavefold.server.model import Model
from wavefold.server.models import Models, OneModel
from wavefold.server.protocol import PROTOCOLS, Context, Protocol
from wavefold.server.run import Server, listen
from wavefold.server.served import Served


def bare_context(llm: LLM) -> Context:
    """A context for the scripted protocol, which asks it for names alone."""
    tokenizer = llm.requests.needs_tokenizer()
    return Context(("wavefold",), tokenizer, None, 4096, 3072, (1,), None, False, None)  # type: ignore[arg-type]


class Running:
    """A server that runs. `lines`: those of its log. `one`: the model, where it is the only one."""

    def __init__(self, app: Any, served: Served, lines: list[Line], drain_s: float, one: Model | None = None):
        self.served, self.lines, self._one = served, lines, one
        self.server = Server(app, served, drain_s)
        self.socket = listen("127.0.0.1", 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # slow readers are felt early
        self.port: int = self.socket.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="server")
        self.thread.start()
        wait_until(lambda: self.server.started)

    @property
    def one(self) -> Model:
        assert self._one is not None
        return self._one

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self.server.serve([self.socket]))
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.socket.close()

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] = {}, method: str | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
        """Returns status, headers in lower case, and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method or ("GET" if data is None else "POST"), path, data, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def line_of(self, request_id: str) -> Line:
        """Returns a request's line of the log, which is written after its client has the answer."""
        wait_until(lambda: any(line.request_id == request_id for line in self.lines))
        return next(line for line in self.lines if line.request_id == request_id)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def open_stream(self, path: str = "/v1/completions", **fields: Any) -> socket.socket:
        """Returns a socket on which an answer comes."""
        body = json.dumps({"model": "wavefold", "stream": True, **fields}).encode()
        connection = self.connect()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost:{self.port}\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection


@contextlib.contextmanager
def running(
    llm: LLM, protocols: Mapping[str, Protocol] = SCRIPTED, context: Context | None = None, drain_s: float = 0.5,
    **limits: Any,
) -> Iterator[Running]:  # fmt: skip
    """A block in which a server runs."""
    model = Model(llm, context or bare_context(llm))
    with running_models(OneModel(model), protocols, drain_s, model, **limits) as server:
        yield server


@contextlib.contextmanager
def running_models(
    models: Models, protocols: Mapping[str, Protocol] = PROTOCOLS, drain_s: float = 0.5, one: Model | None = None,
    **limits: Any,
) -> Iterator[Running]:  # fmt: skip
    """A block in which a server of any models runs."""
    lines: list[Line] = []
    server = Running(*new_app(models, Limits(**limits), lines.append, protocols), lines, drain_s, one)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def served_model(**settings: Any) -> Iterator[Running]:
    """The model that ships, behind all protocols. `settings` of its LLM."""
    with LLM(width=4, threads=1, **settings) as llm, running(llm, PROTOCOLS, context_for(llm, ("wavefold",))) as server:
        yield server


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until something is so. Fails where it takes too long."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.005)


def frames(data: bytes) -> list[dict[str, Any]]:
    """The JSON of a stream's frames, comments left out."""
    return [
        json.loads(part[6:]) for part in data.split(b"\n\n") if part.startswith(b"data: ") and part != b"data: [DONE]"
    ]


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side closes the connection, or the last chunk has come."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        if not (more := connection.recv(65536)):
            break
        data += more
    return data
