"""/v1/files: files of lines that were uploaded, and files of results, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from wavefold.jobs.files import TooLarge, Upload, file_values
from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import INVALID
from wavefold.server.uploads import read_form, too_large

if TYPE_CHECKING:
    from wavefold.server.jobs import Jobs

PURPOSE = "batch"
MOST_LISTED = 10_000


class Files:
    """Handlers of the paths."""

    def __init__(self, jobs: Jobs):
        self._jobs = jobs

    async def create(self, request: Request) -> Response:
        jobs, headers, most = self._jobs, request.headers, self._jobs.most_upload
        upload = await jobs.in_thread(lambda: Upload(jobs.folder, most))
        try:
            form = await read_form(
                request.receive, headers.get("content-type", ""), headers.get("content-length"), most, upload,
                jobs.in_thread,
            )  # fmt: skip
            if form.fields.get("purpose") != PURPOSE:
                raise Refused(400, f"purpose = {form.fields.get('purpose', '')[:80]!r} is not allowed; expected batch",
                              INVALID, "purpose")  # fmt: skip
            if unknown := sorted(form.fields.keys() - {"purpose"}):
                raise Refused(400, f"{unknown[0][:80]} is not supported here; leave it out", INVALID, unknown[0][:80])
            name = form.name or "file.jsonl"
            values = await jobs.with_queue(lambda queue: file_values(queue.file(queue.kept(upload, name))))
        except TooLarge:
            raise too_large(most) from None
        finally:
            await jobs.in_thread(upload.close)
        return JSONResponse(values)

    async def all(self, request: Request) -> Response:
        rows = await self._jobs.with_queue(lambda queue: queue.files())
        if (purpose := request.query_params.get("purpose")) is not None:
            rows = [row for row in rows if row["purpose"] == purpose]
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Refused(400, f"order = {order[:20]!r} is not allowed; expected asc or desc", INVALID, "order")
        return JSONResponse(
            page(rows if order == "asc" else rows[::-1], request, MOST_LISTED, MOST_LISTED, file_values)
        )

    async def one(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        return JSONResponse(await self._jobs.with_queue(lambda queue: file_values(queue.file(file_id))))

    async def content(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await self._jobs.with_queue(lambda queue: queue.file(file_id))

        def data() -> Iterator[bytes]:
            with self._jobs.queue() as queue:
                yield from queue.content(file_id)

        return StreamingResponse(data(), media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        await self._jobs.with_queue(lambda queue: queue.delete_file(file_id))
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def page(rows: Sequence[Any], request: Request, usual: int, most: int, values: Any) -> dict[str, Any]:
    """Returns a page of a list: `limit` rows behind the one named `after`. Raises Refused."""
    limit, after = request.query_params.get("limit", str(usual)), request.query_params.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise Refused(400, f"limit = {limit[:20]!r} is not allowed; expected 1 to {most}", INVALID, "limit")
    if after is not None:
        places = [place for place, row in enumerate(rows) if row["id"] == after]
        if not places:
            raise Refused(400, f"after = {after[:100]!r} is none of the list", INVALID, "after")
        rows = rows[places[0] + 1 :]
    data = [values(row) for row in rows[: int(limit)]]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, "has_more": len(rows) > len(data), **ends}
