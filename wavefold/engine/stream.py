"""The pieces of an answer's text, one after another. Reading them runs the engine for all requests that are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from wavefold.engine.completion import Completion
from wavefold.engine.request import Request
from wavefold.engine.rows import answer_of, num_read
from wavefold.engine.runner import Runner


class TextStream(Iterator[str]):
    """The pieces of an answer's text. Joined they are `completion.text`.

    Each `next` runs steps of the engine until this answer has a piece. The same steps compute other open answers, whose
    pieces wait until they are asked for. A stream that is closed or collected, or whose `with` block ends, gives its
    cache back.
    """

    def __init__(self, runner: Runner, request: Request, on_prefill: Callable[[int, int], None]):
        self._runner: Runner | None = runner
        self._request, self._answer = request, answer_of(request)
        self._on_prefill = on_prefill
        self._num_read = -1
        self._error = ""

    def __next__(self) -> str:
        """Returns the next piece. Raises ValueError where the answer ended with an error, after its last piece.

        So does an answer that had not ended when its model was closed.
        """
        while True:
            if (piece := self._answer.next_piece()) is not None:
                return piece
            runner = self._runner
            if self._answer.finish_reason is not None or runner is None:
                break
            self._advance(runner)
        self._runner = None
        if error := self._answer.error or self._error:
            raise ValueError(error)
        raise StopIteration

    def _advance(self, runner: Runner) -> None:
        """Runs a step, and tells how much of the prompt has been read."""
        of = len(self._request.prompt)
        if self._num_read < 0:
            self._on_prefill(0, of)
            self._num_read = 0
        runner.step(unless=lambda: self._answer.has_news)
        if self._num_read < of and (read := num_read(self._request)) > self._num_read:
            self._on_prefill(read, of)
            self._num_read = read

    def close(self, error: str = "") -> None:
        """End the answer here and give its cache back. Text of tokens that have come is still given.

        `error`: what a reader is told after that text, if the answer has not ended by itself.
        """
        runner = self._runner
        if runner is not None:
            if self._answer.finish_reason is None:
                self._error = error
            runner.abort(self._request.id)
            self._runner = None

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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

    def __repr__(self) -> str:
        state = self._answer.finish_reason or ("open" if self._runner is not None else "interrupted")
        return (
            f"<{type(self).__name__}: {self._answer.prompt.num_tokens} prompt tokens, "
            f"{len(self._answer.tokens)} tokens, {state}>"
        )


class AsyncTextStream(AsyncIterator[str]):
    """The pieces of a `TextStream` for an event loop: each is computed in a thread of the loop's pool.

    A stream whose `async with` block ends, that is closed by `aclose`, collected, or cancelled while a piece is
    computed, gives its cache back. Tasks that read one stream wait for each other.
    """

    def __init__(self, stream: TextStream):
        self._stream = stream
        self._turn = asyncio.Lock()

    async def __anext__(self) -> str:
        """Returns the next piece. Raises what `TextStream` raises."""
        async with self._turn:
            try:
                piece = await asyncio.to_thread(next, self._stream, None)
            except asyncio.CancelledError:  # the piece that is being computed would be lost
                asyncio.get_running_loop().run_in_executor(None, self._stream.close)
                raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the answer here and give its cache back. Waits for a step that runs."""
        await asyncio.to_thread(self._stream.close)

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    @property
    def completion(self) -> Completion:
        """The answer as far as it has come, as `TextStream.completion`."""
        return self._stream.completion

    def __repr__(self) -> str:
        return repr(self._stream).replace("TextStream", type(self).__name__, 1)
