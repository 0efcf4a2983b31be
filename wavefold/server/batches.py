"""/v1/batches: batches of lines that are answered when there is time, as OpenAI's API has them.

Beside its fields a batch has `wavefold`: priority, quiet hours, counts by model, seconds of work and those left, and
why it does not go on, where it does not. A request may give `priority`, `quiet_hours` and `model`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wavefold.jobs.queue import CANCELLED, COMPLETED, FAILED, MOST_PRIORITY, Invalid, Queue, Wanted
from wavefold.jobs.quiet import QuietHours
from wavefold.jobs.reasons import Turns, turns_of, why_waiting
from wavefold.jobs.summary import Summary, summary_of
from wavefold.server.files import page
from wavefold.server.protocol import Refused
from wavefold.server.protocol.bodies import Body, checked, parsed
from wavefold.server.protocol.errors import INVALID

if TYPE_CHECKING:
    from wavefold.server.jobs import Jobs

USUAL_LISTED, MOST_LISTED = 20, 100
Key = Annotated[str, StringConstraints(max_length=64)]
Value = Annotated[str, StringConstraints(max_length=512)]


class BatchBody(Body):
    """A batch of the lines of an uploaded file."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    completion_window: Literal["24h"] = Field(description="Clients send it. A batch here has all the time it needs.")
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)] = Field(0, description="Higher is first.")
    quiet_hours: str | None = Field(None, description="When it may run, in local time: 22:00-07:00.")
    model: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="In the place of each line's."
    )


class Batches:
    """Handlers of the paths."""

    def __init__(self, jobs: Jobs):
        self._jobs = jobs

    async def create(self, request: Request) -> Response:
        bodies = self._jobs.served.bodies
        data = await bodies.read(request.receive, request.headers.get("content-length"))
        try:
            body = checked(BatchBody, parsed(data))
        finally:
            bodies.release([data])
        quiet = None
        try:
            quiet = QuietHours.parse(body.quiet_hours) if body.quiet_hours is not None else None
        except ValueError as error:
            raise Refused(400, str(error), INVALID, "quiet_hours") from None
        wanted = Wanted(body.endpoint, body.model, body.priority, quiet, body.metadata)

        def create(queue: Queue) -> dict[str, Any]:
            try:
                batch = queue.add(body.input_file_id, wanted)
            except Invalid as invalid:
                batch = queue.add_failed(body.input_file_id, wanted, invalid)
            return self._values(queue, batch)

        values = await self._jobs.with_queue(create)
        self._jobs.wake()
        return JSONResponse(values)

    async def all(self, request: Request) -> Response:
        def listed(queue: Queue) -> dict[str, Any]:
            rows, turns = queue.batches(), turns_of(queue)
            return page(rows, request, USUAL_LISTED, MOST_LISTED, lambda row: self._of_row(queue, row, turns))

        return JSONResponse(await self._jobs.with_queue(listed))

    async def one(self, request: Request) -> Response:
        batch = request.path_params["id"]
        return JSONResponse(await self._jobs.with_queue(lambda queue: self._values(queue, batch)))

    async def cancel(self, request: Request) -> Response:
        batch = request.path_params["id"]

        def cancel(queue: Queue) -> dict[str, Any]:
            if not queue.cancel(batch):
                state = queue.batch(batch)["state"]
                raise Refused(400, f"{batch} is {state}; one that runs can be cancelled", INVALID)
            return self._values(queue, batch)

        values = await self._jobs.with_queue(cancel)
        self._jobs.wake()
        return JSONResponse(values)

    async def remove(self, request: Request) -> Response:
        """Of a batch that has ended. OpenAI's API has no such method."""
        batch = request.path_params["id"]
        await self._jobs.with_queue(lambda queue: queue.remove(batch))
        return JSONResponse({"id": batch, "object": "batch", "deleted": True})

    def _values(self, queue: Queue, batch: str) -> dict[str, Any]:
        return self._of_row(queue, queue.batch(batch), turns_of(queue))

    def _of_row(self, queue: Queue, row: Any, turns: Turns) -> dict[str, Any]:
        summary = summary_of(queue, row)
        return batch_values(summary, why_waiting(summary, turns, self._jobs.paused))


def batch_values(summary: Summary, paused: str | None) -> dict[str, Any]:
    """Returns a batch in the shape of OpenAI's API. `paused`: why it does not go on."""
    row, parts, usage = summary.row, summary.parts, summary.usage if summary.parts else None
    ended = None if row["ended"] is None else int(row["ended"])
    errors = {"object": "list", "data": summary.errors} if summary.errors else None

    def if_state(state: str) -> int | None:
        return ended if row["state"] == state else None

    return {
        "id": row["id"], "object": "batch", "endpoint": row["endpoint"], "errors": errors,
        "model": parts[0].model if len(parts) == 1 else None, "input_file_id": row["input_file"],
        "completion_window": "24h", "status": row["state"], "output_file_id": row["output_file"],
        "error_file_id": row["error_file"], "created_at": int(row["created"]),
        "in_progress_at": None if row["state"] == FAILED else int(row["began"] or row["created"]),
        "expires_at": None, "expired_at": None, "finalizing_at": if_state(COMPLETED),
        "completed_at": if_state(COMPLETED), "failed_at": if_state(FAILED), "cancelling_at": if_state(CANCELLED),
        "cancelled_at": if_state(CANCELLED),
        "request_counts": {"total": summary.total, "completed": summary.completed, "failed": summary.failed},
        "usage": usage and {
            "input_tokens": usage.input, "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.input + usage.output,
        },
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
        "wavefold": {
            "priority": row["priority"], "quiet_hours": row["quiet"], "swaps": row["swaps"],
            "seconds": round(summary.seconds, 3),
            "left_s": None if summary.left_s is None else round(summary.left_s, 1),
            "paused": paused,
            "models": [{"model": part.model, "total": part.total, "completed": part.completed, "failed": part.failed,
                        "under_way": part.under_way} for part in parts],
        },
    }  # fmt: skip
