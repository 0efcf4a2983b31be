"""The server's application: its paths, and what they share.

Front (who asks, ids, the log) -> Starlette's router -> Answers of a protocol, models, health, metrics, docs
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from wavefold.server.answers import Answers, Counts
from wavefold.server.bodies import Bodies
from wavefold.server.docs_page import docs_page
from wavefold.server.front import Front
from wavefold.server.hosts import Hosts
from wavefold.server.keys import Keys
from wavefold.server.line import Writer, to_stream
from wavefold.server.listing import Listing
from wavefold.server.machine import inside, machine
from wavefold.server.model import Model
from wavefold.server.models import Models
from wavefold.server.models_paths import pool_routes
from wavefold.server.openapi import openapi
from wavefold.server.page import page_routes
from wavefold.server.protocol import PROTOCOLS, Context, Protocol, Refused, count_messages, count_responses
from wavefold.server.protocol.bodies_messages import CountBody
from wavefold.server.protocol.bodies_responses import InputTokensBody
from wavefold.server.protocol.errors import INVALID
from wavefold.server.served import Served

if TYPE_CHECKING:
    from wavefold.server.jobs import Jobs

Count = Callable[[bytes, Mapping[str, str], Context], bytes]

MAX_BODY = 8 * 2**20
"""A million tokens are 4 to 6 MB of text. JSON is read under Python's lock, and no step begins meanwhile."""
MAX_QUEUE = 64

COUNTS: Mapping[str, tuple[type[BaseModel], Count]] = {
    "/v1/messages/count_tokens": (CountBody, count_messages),
    "/v1/responses/input_tokens": (InputTokensBody, count_responses),
}
"""Paths that count tokens: the body that they take, and what counts."""
OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")
"""They need no key: they show nothing of anybody."""


@dataclass(frozen=True)
class Limits:
    """What the server takes: bytes of a body, requests that wait, names and keys. `hosts`: names beside its own.

    `jobs`: the folder of its queue; None: it has none.
    """

    max_body: int = MAX_BODY
    max_queue: int = MAX_QUEUE
    host: str = "127.0.0.1"
    hosts: Sequence[str] = ()
    keys: Keys = field(default_factory=Keys)
    jobs: Path | None = None


def new_app(
    models: Models, limits: Limits, write: Writer | None = None, protocols: Mapping[str, Protocol] = PROTOCOLS
) -> tuple[ASGIApp, Served]:
    """Returns the application, and what its parts share. `write` takes the lines of the log (None: to stderr)."""
    served = Served(models, protocols, Bodies(limits.max_body), limits.max_queue)
    write = write or to_stream()
    jobs = served.jobs = None if limits.jobs is None else _jobs(limits.jobs, served, write)
    routes = [*_routes(served), *(jobs.routes() if jobs is not None else ())]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await served.start()
        if jobs is not None:
            jobs.start(app)
        yield
        await served.stop()

    handlers = {HTTPException: _http_error(served), Exception: _server_error(served)}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    paths = [route.path for route in routes if isinstance(route, Route)]
    front = Front(app, served, Hosts(limits.host, limits.hosts), limits.keys, write, paths, OPEN_PATHS)
    return front if jobs is None else jobs.clients.around(front), served


def _jobs(folder: Path, served: Served, write: Writer) -> Jobs:
    """Returns the server's queue. Only a server that has one needs the package that reads uploads."""
    from wavefold.server.jobs import Jobs

    return Jobs(folder, served, write)


def _routes(served: Served) -> list[BaseRoute]:
    name = next(iter(served.models.names), "no model")
    counts, others = {path: body for path, (body, _) in COUNTS.items()}, served.jobs.bodies if served.jobs else {}
    description = openapi(served.protocols, counts, name, others)
    listing, page = Listing(served), docs_page(description)

    async def health(request: Request) -> Response:
        is_well = served.models.is_well and not served.is_draining
        status = "ok" if is_well else "stopping"
        return JSONResponse({"status": status, "model": next(iter(served.models.names), None),
                             "waiting": served.num_waiting, "running": served.num_running},
                            200 if is_well else 503)  # fmt: skip

    async def metrics(request: Request) -> Response:
        return Response(served.metrics.text(), media_type=served.metrics.content_type)

    async def described(request: Request) -> Response:
        return JSONResponse(description)

    async def docs(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"content-security-policy": policy})

    async def the_machine(request: Request) -> Response:
        asked, models = request.query_params.get("model"), served.models
        name = asked.partition(":")[0] if asked and models.picks and asked in models.names else asked  # of an adapter
        model = next((model for model in models.loaded if name is None or name in model.context.names), None)
        missing = "no model is" if asked is None else f"model {asked[:200]!r} is not"
        try:
            if model is None:
                raise Refused(404, f"{missing} in memory", "model_not_found")
            return await machine(served, model)
        except Refused as refused:
            return served.shapes.answer(request.scope, request.scope["wavefold.line"], refused)

    return [
        *page_routes(),
        Route("/v1/wavefold/machine", the_machine, methods=["GET"]),
        Route(
            "/v1/wavefold/inside",
            Counts(served, inside, is_long=True),
            methods=["POST"],
        ),
        *(Route(path, Answers(served, protocol), methods=["POST"]) for path, protocol in served.protocols.items()),
        *(Route(path, Counts(served, _counted(count)), methods=["POST"]) for path, (_, count) in COUNTS.items()),
        *pool_routes(served),
        Route("/v1/models", listing.all, methods=["GET"]),
        Route("/v1/models/{name:path}", listing.one, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/openapi.json", described, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
    ]


def _counted(count: Count) -> Callable[[Model, bytes, Mapping[str, str]], bytes]:
    return lambda model, body, headers: count(body, headers, model.context)


def _http_error(served: Served):  # type: ignore[no-untyped-def]
    """A path or a method that there is not."""

    async def handler(request: Request, error: HTTPException) -> Response:
        path, method = request.url.path[:200], request.method
        allow = {"allow": error.headers["Allow"]} if error.headers and "Allow" in error.headers else {}
        refusal = f"{path} takes no {method}; expected {allow.get('allow', 'another method')}"
        message = {404: _absent(path, served.jobs is not None), 405: refusal}.get(error.status_code, error.detail)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, INVALID)
        refused = Refused(error.status_code, message, code)
        return served.shapes.answer(request.scope, request.scope["wavefold.line"], refused, **allow)

    return handler


def _absent(path: str, has_jobs: bool) -> str:
    """Why there is no such path. Those of the queue are there only with a folder for it."""
    needs_jobs = "" if has_jobs else "; start the server with --jobs DIR for batches and files"
    reasons = {
        "/v1/batches": needs_jobs, "/v1/files": needs_jobs,
        "/v1/responses": ": nothing is stored here; send the whole history to /v1/responses",
    }  # fmt: skip
    reason = next((reasons[start] for start in reasons if path == start or path.startswith(f"{start}/")), "")
    return f"there is no {path}{reason}"


def _server_error(served: Served):  # type: ignore[no-untyped-def]
    """A fault of ours. What it was is in the log alone."""

    async def handler(request: Request, error: Exception) -> Response:
        line = request.scope["wavefold.line"]
        refused = Refused(500, f"an error of the server; its log has request {line.request_id}", "server_error")
        return served.shapes.answer(request.scope, line, refused)

    return handler
