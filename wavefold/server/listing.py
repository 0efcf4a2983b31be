"""/v1/models: the names of the models that are served, in OpenAI's shape or, with anthropic-version, in Anthropic's.

OpenAI's has `wavefold` beside its fields: True for `models` where a folder of models is served, for `jobs` where there
is a queue. The page learns from it what it may ask for.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import INVALID, no_such_model
from wavefold.server.served import Served

MOST_LISTED = 1000


class Listing:
    """Answers the two paths of models. `created`: when the server was started."""

    def __init__(self, served: Served):
        self._served, self._created = served, int(time.time())

    async def all(self, request: Request) -> Response:
        names = tuple(self._served.models.names)
        if "anthropic-version" not in request.headers:
            parts = {"models": self._served.models.picks, "jobs": self._served.jobs is not None}
            return JSONResponse({"object": "list", "data": [self._openai(name) for name in names], "wavefold": parts})
        try:
            names, has_more = _page(names, request)
        except Refused as refused:
            return self._served.shapes.answer(request.scope, request.scope["wavefold.line"], refused)
        data = [self._anthropic(name) for name in names]
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return JSONResponse({"data": data, "has_more": has_more, **ends})

    async def one(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._served.models.names:
            refused = no_such_model(name, self._served.models.names, param=None)
            return self._served.shapes.answer(request.scope, request.scope["wavefold.line"], refused)
        is_anthropic = "anthropic-version" in request.headers
        return JSONResponse(self._anthropic(name) if is_anthropic else self._openai(name))

    def _openai(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "wavefold"}

    def _anthropic(self, name: str) -> dict[str, Any]:
        window = self._served.models.window(name)
        return {
            "type": "model", "id": name, "display_name": name, "lifecycle": "active", "capabilities": None,
            "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created)),
            "max_input_tokens": window, "max_tokens": window, "deprecated_at": None, "line": None,
        }  # fmt: skip


def _page(names: tuple[str, ...], request: Request) -> tuple[tuple[str, ...], bool]:
    """Returns the names that a page has, and whether there are more in its direction.

    Raises Refused for a limit that is none, and for a name that is not served.
    """
    limit = request.query_params.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_LISTED):
        raise Refused(400, f"limit = {limit[:20]!r} is not allowed; expected 1 to {MOST_LISTED}",
                      INVALID, "limit")  # fmt: skip
    for parameter in ("after_id", "before_id"):
        name = request.query_params.get(parameter)
        if name is not None and name not in names:
            raise Refused(400, f"{parameter} = {name[:200]!r} is no model", INVALID, parameter)
        if name is not None:
            place = names.index(name)
            names = names[place + 1 :] if parameter == "after_id" else names[:place]
    count, is_backwards = int(limit), "before_id" in request.query_params
    return (names[-count:] if is_backwards else names[:count]), len(names) > count
