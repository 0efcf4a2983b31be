"""A protocol of a few lines, with which the server's own parts are tested: ids in, ids out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from wavefold.chat import Prompt
from wavefold.engine import Sampling, TokenLogprob, Usage
from wavefold.server.protocol import Asked, Context, Part, Protocol, Refused, Writer


class Body(BaseModel):
    model: str
    ids: list[int]
    max_tokens: int = 16
    stream: bool = False
    n: int = 1
    stop_after: int = 0
    """The protocol ends the answer after so many tokens."""
    pad: int = 0
    """Blanks in each frame of a stream."""


class Ids(Protocol):
    """Token ids for token ids."""

    def __init__(self, path: str):
        self.path, self.model_body = path, Body

    def asked(self, body: bytes, headers: Mapping[str, str], context: Context) -> Asked:
        try:
            read = Body.model_validate_json(body)
        except ValidationError as error:
            raise Refused(400, str(error.errors()[0]["msg"]), "invalid_request_error") from None
        context.check_name(read.model)
        sampling = Sampling(read.max_tokens, logit_bias={1: -100})
        parts = (Part(Prompt(read.ids), sampling),) * read.n
        return Asked(read.model, parts, read.stream, headers.get("x-wavefold-progress") == "1", read)

    def writer(self, asked: Asked, request_id: str) -> Writer:
        return IdsWriter(asked)


class IdsWriter(Writer):
    """Frames of ids; at the end one with the reasons and usages."""

    def __init__(self, asked: Asked):
        super().__init__(asked)
        self.ids: list[list[int]] = [[] for _ in asked.parts]
        self.ends: list[Any] = [None for _ in asked.parts]

    def begin(self, prompt_tokens: int, cached_tokens: int, index: int = 0) -> bytes:
        return self._frame(begun=[index, prompt_tokens, cached_tokens])

    def tokens(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob], index: int = 0) -> bytes:
        self.ids[index] += ids
        return self._frame(index=index, ids=list(ids))

    def ended(self, index: int = 0) -> bool:
        return 0 < self.asked.state.stop_after <= len(self.ids[index])

    def _finished(
        self, reason: str, usage: Usage, index: int, prompt_logprobs: Sequence[TokenLogprob | None]
    ) -> bytes:  # fmt: skip
        self.ends[index] = [reason, usage.prompt_tokens, usage.completion_tokens]
        return b""

    def _last(self) -> bytes:
        return self._frame(ends=self.ends)

    def _failure(self, refused: Refused) -> bytes:
        return self._frame(error=refused.message)

    def _whole(self) -> bytes:
        return json.dumps({"ids": self.ids, "ends": self.ends}).encode()

    def _frame(self, **values: Any) -> bytes:
        return f"data: {json.dumps(values)}{' ' * self.asked.state.pad}\n\n".encode()


PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions")
SCRIPTED = {path: Ids(path) for path in PATHS}
