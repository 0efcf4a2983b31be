"""Errors in the shape of the protocol that a client speaks: by the path, or by its headers where the path is none's."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from wavefold.server.line import Line
from wavefold.server.protocol import Protocol, Refused

CLOSING = frozenset({401, 403, 408, 413})
"""The body may not have been read: what comes of it is not looked at."""


class Shapes:
    """Answers to refused requests."""

    def __init__(self, protocols: Mapping[str, Protocol]):
        self._protocols = protocols

    def of(self, scope: Scope) -> Protocol:
        """Returns the protocol whose errors a request is answered with."""
        for path, protocol in self._protocols.items():
            if scope["path"] == path or scope["path"].startswith(f"{path}/"):
                return protocol
        is_messages = "anthropic-version" in Headers(scope=scope)
        return self._protocols["/v1/messages" if is_messages else "/v1/chat/completions"]

    def answer(self, scope: Scope, line: Line, refused: Refused, **headers: str) -> Response:
        """Returns the answer to a refused request, and notes it in its line."""
        line.error = refused.code
        if refused.status in CLOSING:
            headers["connection"] = "close"
        body = self.of(scope).error(refused, line.request_id)
        return Response(body, refused.status, {name.replace("_", "-"): value for name, value in headers.items()},
                        media_type="application/json")  # fmt: skip
