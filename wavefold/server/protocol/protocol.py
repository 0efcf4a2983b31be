"""What every protocol is to the server: a body in, engine requests out; the engine's tokens in, bytes out.

body, headers -> `asked` -> Asked: parts, each a prompt and a sampling
                            `writer` -> Writer: begin, tokens ..., finish for each part -> frames, or one JSON answer
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from wavefold.chat import Prompt
from wavefold.engine import Sampling
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.usage import Usage
from wavefold.server.protocol import sse
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import Refused, openai_body

PROGRESS_HEADER = "x-wavefold-progress"


class Part(NamedTuple):
    """One answer of the engine that a request needs."""

    prompt: Prompt
    sampling: Sampling


class Asked(NamedTuple):
    """A request that was checked. `state`: the protocol's, for its writer. `want_progress`: see `Writer.progress`."""

    model: str
    parts: tuple[Part, ...]
    stream: bool
    want_progress: bool
    state: Any


def wants_progress(headers: Mapping[str, str]) -> bool:
    """True if a client asks to be told how much of its prompt has been read."""
    return headers.get(PROGRESS_HEADER, "") == "1"


class Writer(ABC):
    """Writes one answer. Its methods are called in one thread, and return bytes of a stream (none where it has none).

    `index`: which part of the request. `failed`: why there is no answer, once a part could not be answered.
    """

    keep_alive: bytes = sse.KEEP_ALIVE

    def __init__(self, asked: Asked):
        self.asked = asked
        self.failed: Refused | None = None
        self._left = set(range(len(asked.parts)))
        self._read: dict[int, int] = {}

    @abstractmethod
    def begin(self, prompt_tokens: int, cached_tokens: int, index: int = 0) -> bytes:
        """The part is about to be read. Called once for each part."""

    @abstractmethod
    def tokens(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob], index: int = 0) -> bytes:
        """New tokens of an answer, without the one that ended it. `logprobs`: one for each if asked for."""

    @abstractmethod
    def ended(self, index: int = 0) -> bool:
        """True if the answer is complete, whatever the engine would add: its request may be aborted."""

    def finish(
        self, reason: str, usage: Usage, index: int = 0, prompt_logprobs: Sequence[TokenLogprob | None] = ()
    ) -> bytes:
        """A part has ended by itself: `finish_reason`, `usage` and `prompt_logprobs` of its `Completion`.

        With the last part come the last frames.
        """
        if self.failed is not None or index not in self._left:
            return b""
        try:
            frames = self._finished(reason, usage, index, prompt_logprobs)
        except Refused as refused:
            return self.failure(refused)
        self._left.discard(index)
        if self._left:
            return frames
        return frames + self._last()

    def failure(self, refused: Refused) -> bytes:
        """The request cannot be answered: the frames that say so, and nothing after them."""
        if self.failed is not None or not self._left:
            return b""
        self.failed = refused
        return self._failure(refused) if self.asked.stream else b""

    def whole(self) -> bytes:
        """Returns the answer of a request without a stream, once all parts ended. Raises `Refused` if one failed."""
        if self.failed is not None:
            raise self.failed
        assert not self._left, "an answer before its end"
        return self._whole()

    def progress(self, read: int, of: int, index: int = 0) -> bytes:
        """How much of a part's prompt has been read: a comment in a stream that asks for it, for all parts together."""
        if not (self.asked.stream and self.asked.want_progress) or self.failed is not None:
            return b""
        self._read[index] = read
        total = of if len(self.asked.parts) == 1 else sum(part.prompt.num_tokens for part in self.asked.parts)
        return sse.comment(f"progress {min(sum(self._read.values()), total)}/{total}")

    @abstractmethod
    def _finished(self, reason: str, usage: Usage, index: int, prompt_logprobs: Sequence[TokenLogprob | None]) -> bytes:
        """The last frames of a part. Raises `Refused` for an answer that a client cannot use."""

    @abstractmethod
    def _last(self) -> bytes: ...

    @abstractmethod
    def _failure(self, refused: Refused) -> bytes: ...

    @abstractmethod
    def _whole(self) -> bytes: ...


class Protocol(ABC):
    """One path of the server."""

    path: str
    model_body: type[BaseModel]

    @abstractmethod
    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        """Returns a request that was checked; its prompt is encoded, which takes 0.5 s for a megabyte of text.

        `headers` by names in lower case. Raises `Refused`.
        """

    @abstractmethod
    def writer(self, asked: Asked, request_id: str) -> Writer:
        """Returns what writes the answer. `request_id`: letters, digits, `_` and `-`."""

    def error(self, refused: Refused, request_id: str) -> bytes:
        """Returns the body of an error: OpenAI's, unless a protocol has another shape."""
        return openai_body(refused)
