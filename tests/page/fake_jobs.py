"""A scripted queue for the page: files are kept, and the test says how far a batch is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Refusal = Callable[[Request], Response | None]


@dataclass
class FakeJobs:
    """Batches, the newest first, and files by their id: name and content."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of new batches."""
    removed: list[str] = field(default_factory=list)

    def add(self, name: str, total: int, **fields: Any) -> dict[str, Any]:
        """A batch of a file with this name."""
        number = len(self.batches)
        file = f"file-{number}"
        self.files.setdefault(file, (name, b""))
        own = {"priority": 0, "quiet_hours": None, "swaps": 0, "seconds": 0, "left_s": None, "paused": None,
               "models": [{"model": "one", "total": total, "completed": 0, "failed": 0, "under_way": 0}]}  # fmt: skip
        batch = {"id": f"batch_{number}", "object": "batch", "status": "in_progress", "errors": None,
                 "endpoint": "/v1/completions", "input_file_id": file, "output_file_id": None, "error_file_id": None,
                 "created_at": int(time.time()),
                 "request_counts": {"total": total, "completed": 0, "failed": 0}}  # fmt: skip
        self.batches.insert(0, batch | fields | {"wavefold": own | fields.get("wavefold", {})})
        return self.batches[0]

    def step(self, batch: dict[str, Any], completed: int, failed: int = 0, left_s: float | None = None) -> None:
        """So many of its lines have ended; with the last one it has."""
        batch["request_counts"] = batch["request_counts"] | {"completed": completed, "failed": failed}
        batch["wavefold"]["left_s"] = left_s
        if completed + failed == batch["request_counts"]["total"]:
            number = batch["id"].removeprefix("batch_")
            self.files[f"out-{number}"] = ("out.jsonl", b'{"custom_id": "a"}\n')
            self.files[f"err-{number}"] = ("err.jsonl", b'{"custom_id": "b"}\n')
            batch |= {"status": "completed", "output_file_id": f"out-{number}",
                      "error_file_id": f"err-{number}" if failed else None}  # fmt: skip

    def routes(self, refusal: Refusal) -> list[Route]:
        async def batches(request: Request) -> Response:
            if (refused := refusal(request)) is not None:
                return refused
            if request.method == "GET":
                limit = int(request.query_params["limit"])
                return JSONResponse({"data": self.batches[:limit], "has_more": len(self.batches) > limit})
            body = await request.json()
            self.asked.append(body)
            if body.get("quiet_hours") == "never":
                return JSONResponse({"error": {"message": "quiet hours 'never' are not allowed"}}, 400)
            name, content = self.files[body["input_file_id"]]
            lines = content.splitlines()
            batch = self.add(name, len(lines), input_file_id=body["input_file_id"], endpoint=body["endpoint"])
            if any(not line.startswith(b"{") for line in lines):
                batch["status"], batch["request_counts"]["total"] = "failed", 0
                batch["errors"] = {"data": [{"line": 2, "message": "is no JSON: <img src=x onerror=alert(1)>"}] * 7}
            return JSONResponse(batch)

        async def cancel(request: Request) -> Response:
            batch = next(one for one in self.batches if one["id"] == request.path_params["id"])
            batch["status"] = "cancelled"
            return refusal(request) or JSONResponse(batch)

        async def remove(request: Request) -> Response:
            if (refused := refusal(request)) is not None:
                return refused
            self.batches[:] = [one for one in self.batches if one["id"] != request.path_params["id"]]
            return JSONResponse({"deleted": True})

        async def upload(request: Request) -> Response:
            async with request.form() as form:
                file = form["file"]
                assert form["purpose"] == "batch" and not isinstance(file, str)
                self.files[f"up-{len(self.files)}"] = (file.filename or "", await file.read())
            return refusal(request) or JSONResponse(self._file(list(self.files)[-1]))

        async def file(request: Request) -> Response:
            name = request.path_params["id"]
            if request.method == "DELETE":
                self.removed.append(name)
            if (refused := refusal(request)) is not None:
                return refused
            return JSONResponse(self._file(name)) if name in self.files else JSONResponse({}, 404)

        async def content(request: Request) -> Response:
            data = self.files[request.path_params["id"]][1]
            return refusal(request) or Response(data, media_type="application/octet-stream")

        return [
            Route("/v1/batches", batches, methods=["GET", "POST"]), Route("/v1/files", upload, methods=["POST"]),
            Route("/v1/batches/{id}/cancel", cancel, methods=["POST"]),
            Route("/v1/batches/{id}", remove, methods=["DELETE"]),
            Route("/v1/files/{id}", file, methods=["GET", "DELETE"]), Route("/v1/files/{id}/content", content),
        ]  # fmt: skip

    def _file(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "file", "filename": self.files[name][0]}


def lines_of(*prompts: str, url: str = "/v1/completions") -> bytes:
    """A file of lines of OpenAI's batch format."""
    return b"".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": url,
                    "body": {"model": "one", "prompt": prompt, "max_tokens": 8}}).encode() + b"\n"
        for number, prompt in enumerate(prompts)
    )  # fmt: skip
