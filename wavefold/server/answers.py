"""The application behind a protocol's path: a body comes, an answer goes, as a stream or whole.

body -> its model -> Protocol.asked (in a thread) -> Requests.of -> Engine.submit -> news -> Writer -> frames, or whole

The model stays in memory until the answer has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wavefold.engine.request import Request
from wavefold.server.engine import QueueFull, Stopped
from wavefold.server.exchange import Exchange
from wavefold.server.line import Line
from wavefold.server.model import Model
from wavefold.server.news import wait
from wavefold.server.protocol import Asked, Protocol, Refused, name_in
from wavefold.server.served import LARGE, Served

log = logging.getLogger("wavefold.server")
Result = TypeVar("Result")

KEEP_ALIVE_S = 5.0
"""A stream in which nothing came for so long gets a frame that says nothing."""

STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"),
                  (b"x-accel-buffering", b"no"))  # fmt: skip


class Answers:
    """Answers the requests of one protocol."""

    def __init__(self, served: Served, protocol: Protocol):
        self._served, self._protocol = served, protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line: Line = scope["wavefold.line"]
        try:
            async with with_body(self._served, scope, receive, self._read) as (model, (asked, requests)):
                exchange = self._begun(model, asked, requests, line)
                await self._answer(exchange, scope, receive, send)
        except Refused as refused:
            await self._served.shapes.answer(scope, line, refused)(scope, receive, send)
        except QueueFull as full:
            too_many = Refused(429, str(full), "rate_limit_exceeded")
            answer = self._served.shapes.answer(scope, line, too_many, retry_after=str(full.retry_after))
            await answer(scope, receive, send)
        except Stopped as stopped:
            ending = Refused(503, str(stopped), "overloaded")
            await self._served.shapes.answer(scope, line, ending, retry_after="5")(scope, receive, send)

    def _read(self, model: Model, body: bytes, headers: Mapping[str, str]) -> tuple[Asked, list[Request]]:
        """Returns what is asked, and the engine's requests. Raises Refused."""
        asked = self._protocol.asked(body, headers, model.context)
        try:
            of_parts = [model.llm.requests.of(part.prompt, part.sampling, model.adapter) for part in asked.parts]
        except ValueError as error:
            raise Refused.of(error) from None
        return asked, [request for requests in of_parts for request in requests]

    def _begun(self, model: Model, asked: Asked, requests: list[Request], line: Line) -> Exchange:
        """Gives requests to the engine. Raises QueueFull, Stopped, Refused."""
        line.model, line.stream = asked.model, asked.stream
        writer = self._protocol.writer(asked, line.request_id)
        try:
            readers = model.running.submit(*requests)
        except ValueError as error:
            raise Refused.of(error) from None
        return Exchange(asked, writer, readers, line)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.ensure_future(_watch(receive, exchange))
        try:
            if exchange.asked.stream:
                await _stream(exchange, send)
            else:
                await self._whole(exchange, scope, receive, send)
        finally:
            watch.cancel()
            exchange.close()

    async def _whole(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        while not exchange.is_done:
            await wait(exchange.readers)
            exchange.frames()
        if not exchange.has_left:
            await Response(exchange.writer.whole(), media_type="application/json")(scope, receive, send)


async def _watch(receive: Receive, exchange: Exchange) -> None:
    """Ends an answer whose client has left."""
    await _disconnected(receive)
    exchange.leave()


async def _stream(exchange: Exchange, send: Send) -> None:
    """Sends a stream. Raises Refused before its first byte; after it the stream says what went wrong.

    What a slow client has not taken yet waits as token ids, and keeps nobody else from going on.
    """
    is_begun = False
    while not exchange.is_done:
        await wait(exchange.readers, KEEP_ALIVE_S)
        is_silent = not any(reader.has_news for reader in exchange.readers)
        try:
            data = exchange.writer.keep_alive if is_silent else exchange.frames()
        except Refused as refused:
            if not is_begun:
                raise
            data = exchange.writer.failure(refused)
            exchange.close()
        except Exception:
            if not is_begun:
                raise
            log.exception("an answer failed amid its stream")
            data = exchange.writer.failure(Refused(500, "an error of the server", "server_error"))
            exchange.close()
        if data and not exchange.has_left:
            if not is_begun:
                await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            is_begun = True
            await send({"type": "http.response.body", "body": data, "more_body": True})
    if not exchange.has_left:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@contextlib.asynccontextmanager
async def with_body(
    served: Served, scope: Scope, receive: Receive, function: Callable[[Model, bytes, Mapping[str, str]], Result],
    is_long: bool = False,
) -> AsyncIterator[tuple[Model, Result]]:  # fmt: skip
    """Reads a body, and calls a function on its model, it and the headers in a thread.

    The model is in memory until the block ends. `is_long`: the function takes its time, whatever the body. Raises
    Refused, and what the function raises.
    """
    headers = Headers(scope=scope)
    body = await served.bodies.read(receive, headers.get("content-length"))
    chunks, is_long, left = [body], is_long or len(body) > LARGE, None
    try:
        name = await served.in_thread(is_long, lambda: name_in(body)) if served.models.picks else ""
        left = asyncio.ensure_future(_disconnected(receive))
        async with served.models.lease(name, left) as model:
            left.cancel()  # from here on whoever writes the answer looks
            result = await served.in_thread(is_long, lambda: function(model, chunks[0], headers))
            served.bodies.release(chunks)
            chunks.clear()
            yield model, result
    finally:
        if left is not None:
            left.cancel()
        served.bodies.release(chunks)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Counts:
    """Answers a path whose body goes through one function, as one that counts tokens. `is_long`: it takes its time."""

    def __init__(
        self, served: Served, count: Callable[[Model, bytes, Mapping[str, str]], bytes], is_long: bool = False
    ):
        self._served, self._count, self._is_long = served, count, is_long

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._served
        try:
            async with with_body(served, scope, receive, self._count, self._is_long) as (_, data):
                answer = Response(data, media_type="application/json")
        except Refused as refused:
            answer = served.shapes.answer(scope, scope["wavefold.line"], refused)
        await answer(scope, receive, send)
