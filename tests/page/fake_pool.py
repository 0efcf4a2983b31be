"""A scripted folder of models for the page: the test says when a load or an unload has ended, and how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PATH = "/v1/wavefold/models"
Refusal = Callable[[Request], Response | None]


def pooled(name: str, state: str = "on disk", **fields: Any) -> dict[str, Any]:
    """A model as /v1/wavefold/models has it."""
    return {"name": name, "kind": "official", "state": state, "bytes": 151_000_000, "memory_bytes": 0, "users": 0,
            "waiting": 0, "pinned": False, "last_used": None, "fault": None} | fields  # fmt: skip


@dataclass
class FakePool:
    """Models by name. Loading takes until the test sets another state."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    loads: int = 0
    down: bool = False
    """It answers with an error."""
    looks: int = 0
    limit: int = 700_000_000
    base: int = 300_000_000
    """Bytes of memory: of all, and of what is no model."""

    @property
    def names(self) -> list[str]:
        return [name for name, model in self.models.items() if not model["fault"]]

    def state(self, name: str) -> str:
        return str(self.models[name]["state"])

    def set(self, name: str, state: str, **fields: Any) -> None:
        memory = 160_000_000 if state in ("loading", "loaded", "leaving") else 0
        self.models[name] = self.models[name] | {"state": state, "memory_bytes": memory} | fields

    def swap(self, leaving: str, loading: str) -> None:
        """A request for one model, for which another one leaves."""
        self.set(leaving, "leaving")
        self.set(loading, "loading", waiting=2)

    def end_swap(self, leaving: str, loading: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.set(leaving, "on disk", last_used=now)
        self.set(loading, "loaded", waiting=0, users=2, last_used=now)
        self.loads += 1

    def routes(self, refusal: Refusal) -> list[Route]:
        async def listed(request: Request) -> Response:
            self.looks += 1
            if self.down:
                return JSONResponse({"error": {"message": "the folder is gone"}}, 500)
            resident = self.base + sum(model["memory_bytes"] for model in self.models.values())
            memory = {"limit_bytes": self.limit, "models_bytes": 400_000_000, "resident_bytes": resident}
            return refusal(request) or JSONResponse(
                {"memory": memory, "loads": self.loads, "models": list(self.models.values())}
            )

        async def changed(request: Request) -> Response:
            name, is_load = (await request.json())["model"], request.url.path.endswith("/load")
            self.set(name, "loading" if is_load else "leaving")
            while self.state(name) in ("loading", "leaving"):
                await asyncio.sleep(0.01)
            if is_load and self.state(name) == "on disk":
                reason = f"model {name!r} cannot be loaded: <b>its file</b> is cut"
                return JSONResponse({"error": {"message": reason, "code": "model_not_loaded"}}, 503)
            return JSONResponse(self.models[name])

        paths = [Route(f"{PATH}/{act}", changed, methods=["POST"]) for act in ("load", "unload")]
        return [Route(PATH, listed), *paths]
