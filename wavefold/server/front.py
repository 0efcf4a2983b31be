"""What each request passes before its path: who asks, and by which name; and what each answer gets: ids, a log line.

request -> Host and Origin -> API key -> draining -> the path's application -> ids in headers, counts, a line of JSON
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wavefold.ops.native.heap import trim_of_libc
from wavefold.server.hosts import Hosts
from wavefold.server.keys import Keys
from wavefold.server.line import Line, Writer
from wavefold.server.protocol import Refused
from wavefold.server.served import Served
from wavefold.server.tidy import Tidy

log = logging.getLogger("wavefold.server")

PAGE = "/page/"
"""Where the page's files are: they need no key."""
OTHER = "other"
"""The path of metrics for paths that are not the server's."""


class Front:
    """An ASGI application around the server's own. `open_paths` need no key; `paths` are those that there are."""

    def __init__(
        self, app: ASGIApp, served: Served, hosts: Hosts, keys: Keys, write: Writer, paths: Collection[str],
        open_paths: Collection[str],
    ):  # fmt: skip
        self._app, self._served, self._hosts, self._keys, self._write = app, served, hosts, keys, write
        self._tidy = Tidy(trim_of_libc())
        self._paths, self._open_paths = frozenset(paths), frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._tidy.begin()
        line = scope["wavefold.line"] = Line(scope["method"], scope["path"])
        is_complete = False

        async def send_noted(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                line.status = message["status"]
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                headers["x-request-id"] = headers["request-id"] = line.request_id
                headers["x-content-type-options"] = "nosniff"
                message = {**message, "headers": headers.raw}
            await send(message)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            refused = self._refusal(scope)
            if refused is not None:
                headers = {"retry_after": "5"} if refused.status == 503 else {}
                await self._served.shapes.answer(scope, line, refused, **headers)(scope, receive, send_noted)
            else:
                await self._app(scope, receive, send_noted)
        except Exception:
            log.exception("request %s failed", line.request_id)
            line.error = "server_error"
            if not is_complete:
                raise
        finally:
            self._tidy.end()
            self._served.metrics.count_request(line, self._named(scope["path"]))
            self._write(line)

    def _named(self, path: str) -> str:
        return path if path in self._paths else OTHER

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = Headers(scope=scope)
        if reason := self._hosts.refusal(headers):
            return Refused(403, reason, "forbidden")
        if scope["path"] in self._open_paths or scope["path"].startswith(PAGE):
            return None
        if not self._keys.allow(headers):
            return Refused(401, "the API key is missing or wrong; expected Authorization: Bearer KEY, or x-api-key",
                           "invalid_api_key")  # fmt: skip
        if self._served.is_draining and scope["method"] == "POST":
            return Refused(503, "the server is shutting down", "overloaded")
        return None
