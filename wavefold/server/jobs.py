"""The queue of a server: its routes, and a worker that asks the server's own application.

    /v1/files, /v1/batches -> queue (wavefold/jobs) <- worker -> inner.py -> the application: checks, limits, answers

Lines are begun only while no client's answer is open. One place of the engine stays free for a client that comes while
lines are under way; where it waits for another model of a pool, the lines are taken back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from wavefold.jobs.board import Offer
from wavefold.jobs.files import MOST_BYTES
from wavefold.jobs.queue import NoSuch, Queue
from wavefold.jobs.schema import Damaged, NoQueue, NotNow, check_place
from wavefold.jobs.worker import Answered, Worker
from wavefold.server.batches import BatchBody, Batches
from wavefold.server.files import Files
from wavefold.server.inner import post
from wavefold.server.line import Line, Writer
from wavefold.server.protocol import Refused
from wavefold.server.protocol.errors import INVALID

if TYPE_CHECKING:
    from wavefold.server.served import Served

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("wavefold.server")


class Jobs:
    """A queue and who works on it. `most_upload`: bytes of an uploaded file.

    Where the queue cannot be worked on, `paused` says why. `check_queue` (jobs/worker.py) does before a model is read.
    """

    most_upload = MOST_BYTES
    bodies: Mapping[str, type[BaseModel]] = {"/v1/batches": BatchBody}
    """Of its paths that take JSON."""

    def __init__(self, folder: Path, served: Served, write: Writer):
        self.folder, self.served, self._write = folder, served, write
        self._threads = ThreadPoolExecutor(2, "wavefold-queue")
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None
        self._failed: str | None = None
        self.clients = Clients(served.protocols)

    @property
    def paused(self) -> str | None:
        """Why the worker does not go on; None where it does."""
        worker = self._worker
        return self._failed or (None if worker is None else worker.paused or worker.refused)

    def start(self, app: ASGIApp) -> None:
        """Starts the worker, in the event loop that runs. `app` is behind the front."""

        async def answer(path: str, body: str) -> Answered:
            line = Line("POST", path)
            try:
                inner = await post(app, path, body.encode(), line)
                return Answered(inner.status, json.loads(inner.body), line.request_id)
            finally:
                self.served.metrics.count_request(line, path)
                self._write(line)

        self._worker = Worker(self.folder, answer, self._width, self._may_go_on, self._gives_way, offer=self._offer())
        self._working = asyncio.ensure_future(self._worker.run())
        self._working.add_done_callback(self._note_end)

    async def stop(self) -> None:
        """Ends the worker. Lines under way are left as if they had not been begun."""
        if self._worker is not None and self._working is not None:
            self._worker.stop()
            await asyncio.wait([self._working])

    def wake(self) -> None:
        """Tells the worker that the queue has changed."""
        if self._worker is not None:
            self._worker.wake()

    def queue(self) -> Queue:
        """Returns the queue, for one thread; its taker closes it.

        Raises NoQueue where it is not the one that the worker has opened: nobody would work on another one.
        """
        place = None if self._worker is None else self._worker.place
        if place is not None:
            check_place(self.folder, place)
        return Queue(self.folder, create=place is None)

    async def in_thread(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def with_queue(self, function: Callable[[Queue], Result]) -> Result:
        """Calls a function on the queue, in a thread."""

        def call() -> Result:
            with self.queue() as queue:
                return function(queue)

        return await self.in_thread(call)

    def routes(self) -> list[Route]:
        files, batches = Files(self), Batches(self)
        handlers: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/files", files.create), ("GET", "/v1/files", files.all),
            ("GET", "/v1/files/{id}", files.one), ("DELETE", "/v1/files/{id}", files.delete),
            ("GET", "/v1/files/{id}/content", files.content),
            ("POST", "/v1/batches", batches.create), ("GET", "/v1/batches", batches.all),
            ("GET", "/v1/batches/{id}", batches.one), ("DELETE", "/v1/batches/{id}", batches.remove),
            ("POST", "/v1/batches/{id}/cancel", batches.cancel),
        ]  # fmt: skip
        by_path: dict[str, dict[str, Handler]] = {}
        for method, path, handler in handlers:
            by_path.setdefault(path, {})[method] = handler
        return [Route(path, self._answered(methods), methods=list(methods)) for path, methods in by_path.items()]

    def _answered(self, methods: dict[str, Handler]) -> Handler:
        """Returns a handler that answers errors in the shape of the API."""

        async def handle(request: Request) -> Response:
            try:
                return await methods["GET" if request.method == "HEAD" else request.method](request)
            except (ValueError, NotNow) as error:
                refused = _refusal(error)
            return self.served.shapes.answer(request.scope, request.scope["wavefold.line"], refused)

        return handle

    def _offer(self) -> Offer:
        """Returns the folder of a pool, in which models come and go, or the names of the one model."""
        models = self.served.models
        return list(models.names) if models.folder is None else str(models.folder.absolute())

    def _width(self, name: str | None) -> int:
        """Returns how many lines may run: one less than the engine takes. One alone loads a model of a pool."""
        models = self.served.models
        base = (name or "").partition(":")[0]
        widths = [model.running.width for model in models.loaded if not models.picks or base in model.context.names]
        return max(1, widths[0] - 1) if widths else 1

    def _may_go_on(self) -> bool:
        return not self.clients.num_open and not self.served.is_draining

    def _gives_way(self) -> bool:
        """True where a client waits for a model that has no room beside the one of the lines that are under way."""
        return self.clients.num_open > 0 and self.served.models.num_without_room > 0

    def _note_end(self, working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (error := working.exception()) is not None:
            self._failed = str(error)
            log.error("no jobs are worked on: %s", error)


def _refusal(error: ValueError | NotNow) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, NoSuch):
        return Refused(404, str(error), "not_found")
    if isinstance(error, NotNow):
        message = error.strerror or str(error)
        is_full = error.errno == errno.ENOSPC
        return Refused(507 if is_full else 503, message, "no_room" if is_full else "queue_not_ready")
    if isinstance(error, NoQueue):
        return Refused(503, str(error), "queue_not_ready")
    if isinstance(error, Damaged):
        return Refused(500, str(error), "server_error")
    return Refused(400, str(error), INVALID)


class Clients:
    """Counts the open requests of clients for answers. `around` an application; `paths`: those of answers."""

    def __init__(self, paths: Collection[str]):
        self.num_open = 0
        self._paths = frozenset(paths)

    def around(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            counts = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths
            self.num_open += counts
            try:
                await app(scope, receive, send)
            finally:
                self.num_open -= counts

        return counted
