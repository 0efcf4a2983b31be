"""The pieces of an answer's text, one after another. Reading them runs the engine for all requests that are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from wavefold.engine.completion import Completion
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of
from wavefold.engine.runner import Runner


class TextStream(Iterator[str]):
    """The pieces of an answer's text. Joined they are `completion.text`.

    Each `next` runs steps of the engine until this answer has a piece. The same steps compute other open answers, whose
    pieces wait until they are asked for. A stream that is closed or collected gives its cache back.
    """

    def __init__(self, runner: Runner, request: Request, on_prefill: Callable[[int, int], None]):
        self._runner: Runner | None = runner
        self._request, self._answer = request, answer_of(request)
        self._on_prefill = on_prefill
        self._num_read = -1

    def __next__(self) -> str:
        """Returns the next piece. Raises ValueError where the answer ended with an error, after its last piece."""
        while True:
            if (piece := self._answer.next_piece()) is not None:
                return piece
            if self._answer.finish_reason is not None or self._runner is None:
                break
            self._advance(self._runner)
        self._runner = None
        if self._answer.error:
            raise ValueError(self._answer.error)
        raise StopIteration

    def _advance(self, runner: Runner) -> None:
        """Runs a step, and tells how much of the prompt has been read."""
        of = len(self._request.prompt)
        if self._num_read < 0:
            self._on_prefill(0, of)
            self._num_read = 0
        runner.step(unless=lambda: self._answer.has_news)
        if self._num_read < of:
            read = of if self._answer.num_chosen else min(self._request.num_cached, of)
            if read > self._num_read:
                self._on_prefill(read, of)
                self._num_read = read

    def close(self) -> None:
        """End the answer here and give its cache back. Text of tokens that have come is still given."""
        if self._runner is not None:
            self._runner.abort(self._request.id)
            self._runner = None

    def __del__(self) -> None:
        if getattr(self, "_runner", None) is not None:
            self.close()

    def finish(self) -> Completion:
        """Run the answer to its end."""
        for _ in self:
            pass
        return self.completion

    @property
    def completion(self) -> Completion:
        """The answer as far as it has come; its `finish_reason` is "interrupted" until it has ended by itself."""
        return self._answer.completion


async def in_threads(stream: TextStream) -> AsyncIterator[str]:
    """The pieces of a stream, each computed in a thread of the event loop's pool. The stream is closed at the end."""
    try:
        while (piece := await asyncio.to_thread(next, stream, None)) is not None:
            yield piece
    finally:
        stream.close()
