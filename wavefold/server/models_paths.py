"""/v1/wavefold/models: what a folder of models offers, which of it is in memory, and the two that load and unload.

GET  /v1/wavefold/models              {"memory": ..., "models": [{"name", "state", "bytes", ...}]}
POST /v1/wavefold/models/load         {"model": NAME}      answers once it is in memory
POST /v1/wavefold/models/unload       {"model": NAME}      answers once its memory is given back
"""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from wavefold.pool.folder import Entry
from wavefold.pool.last_used import read_last_used
from wavefold.pool.turns import Resident
from wavefold.server.pool import PooledModels
from wavefold.server.protocol import Refused, name_in
from wavefold.server.protocol.errors import no_such_model
from wavefold.server.served import Served
from wavefold.system import rss_bytes

PATH = "/v1/wavefold/models"


def pool_routes(served: Served) -> list[BaseRoute]:
    """Returns the paths of a server that has a pool; none of one that has a single model."""
    pool = served.models
    if not isinstance(pool, PooledModels):
        return []

    async def listed(request: Request) -> Response:
        return JSONResponse(models_of(pool))

    async def changed(request: Request) -> Response:
        headers = request.headers
        try:
            body = await served.bodies.read(request.receive, headers.get("content-length"))
            try:
                name = name_in(body)
            finally:
                served.bodies.release([body])
            await (pool.unload(name) if request.url.path.endswith("/unload") else pool.load(name))
            described = next((one for one in models_of(pool)["models"] if one["name"] == name), None)
            if described is None:  # its files were removed meanwhile
                raise no_such_model(name, pool.names)
        except Refused as refused:
            return served.shapes.answer(request.scope, request.scope["wavefold.line"], refused)
        return JSONResponse(described)

    return [
        Route(PATH, listed, methods=["GET"]),
        Route(f"{PATH}/load", changed, methods=["POST"]),
        Route(f"{PATH}/unload", changed, methods=["POST"]),
    ]


def state_of(entry: Entry, resident: Resident | None) -> str:
    """Returns where a model is, in a word or two."""
    if entry.fault:
        return "faulty"
    if resident is None:
        return "on disk"
    return "loading" if resident.is_coming else "leaving" if resident.is_leaving else "loaded"


def models_of(pool: PooledModels) -> dict[str, Any]:
    """Returns the models of a pool with their states. Sizes are in bytes, on disk and in memory."""
    record: dict[str, dict[str, str]] = {}
    with contextlib.suppress(ValueError):  # a damaged file is written anew when a model comes or goes
        record = read_last_used(pool.folder)
    models = []
    for name, entry in pool.offer.entries.items():
        resident = pool.resident(name)
        models.append({
            "name": name, "kind": entry.kind, "state": state_of(entry, resident), "bytes": entry.num_bytes,
            "memory_bytes": pool.bytes_of(name), "users": resident.num_users if resident else 0,
            "waiting": pool.num_waiting_for(name), "pinned": pool.offer.settings.of(name).pin,
            "last_used": record.get(name, {}).get("last_used"), "fault": entry.fault or None,
        })  # fmt: skip
    memory = {"limit_bytes": pool.memory, "models_bytes": pool.room.num_bytes, "resident_bytes": rss_bytes()}
    return {"memory": memory, "loads": pool.num_loads, "models": models}
