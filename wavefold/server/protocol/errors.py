"""What a request is refused with, in the shape of each protocol's errors.

OpenAI      {"error": {"message", "type", "param", "code"}}
Anthropic   {"type": "error", "error": {"type", "message"}, "request_id"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wavefold.server.protocol.sse import dumped

INVALID = "invalid_request_error"
"""The code of a request that is wrong."""
OPENAI_TYPES = {429: "rate_limit_error"}
ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip


class Refused(ValueError):
    """A request that is not answered, or an answer that cannot go on.

    `status`: of HTTP. `code`: a short name for programs. `param`: the field of the body that is wrong, as
    "messages.0.content", or None. `details`: for Anthropic's clients.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, details: Mapping[str, Any] | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.details = status, message, code, param, details

    @classmethod
    def of(cls, error: ValueError, param: str | None = None) -> Refused:
        """Returns the refusal of a request that the engine does not take: 400, with what it says."""
        return error if isinstance(error, Refused) else cls(400, str(error), INVALID, param)


def no_such_model(model: str, names: Sequence[str], param: str | None = "model") -> Refused:
    """Returns the refusal of a model's name. `param`: where it stood in the body, if it did."""
    served = ", ".join(map(repr, names))
    return Refused(404, f"model {model[:200]!r} is not served here; served: {served}", "model_not_found", param)


def too_long(window: int, num_prompt: int, num_answer: int, prompt: str, longest: str) -> Refused:
    """Returns the refusal of a prompt and an answer that are longer than the window. `prompt`, `longest`: their fields.

    It begins as OpenAI's does, and has its numbers: clients look for both.
    """
    is_answer = num_prompt < window
    completion = "the completion" if longest != "max_output_tokens" else longest
    remedy = f"{longest} may be {window - num_prompt} at most" if is_answer else f"Send a shorter {prompt}"
    if prompt == "messages" and not is_answer:
        remedy = "Send fewer or shorter messages"
    if num_prompt == window:
        remedy += ": an answer needs a place"
    return Refused(
        400, f"This model's maximum context length is {window} tokens on this server (--cache-tokens, up to the "
        f"model's own). However, you requested {num_prompt + num_answer} tokens ({num_prompt} in the {prompt}, "
        f"{num_answer} in {completion}). {remedy}.", "context_length_exceeded", longest if is_answer else prompt,
    )  # fmt: skip


def openai_error(refused: Refused) -> dict[str, Any]:
    """The value under "error" in OpenAI's protocols."""
    usual = "server_error" if refused.status >= 500 else "invalid_request_error"
    kind = OPENAI_TYPES.get(refused.status, usual)
    return {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}


def openai_body(refused: Refused) -> bytes:
    """Returns the body of an error in OpenAI's protocols."""
    return dumped({"error": openai_error(refused)}).encode()


def anthropic_body(refused: Refused, request_id: str) -> bytes:
    """Returns the body of an error in Anthropic's protocol."""
    place = "" if refused.param is None or refused.param in refused.message else f"{refused.param}: "
    error: dict[str, Any] = {
        "type": ANTHROPIC_TYPES.get(refused.status, "api_error" if refused.status >= 500 else "invalid_request_error"),
        "message": place + refused.message,
    }
    if refused.details is not None:
        error["details"] = dict(refused.details)
    return dumped({"type": "error", "error": error, "request_id": request_id}).encode()


def of_recipe(body: str) -> Refused:
    """Returns the refusal that the library of DeepSeek's protocols answers with: 400 in OpenAI's shape."""
    return Refused(400, str(json.loads(body)["error"]["message"]), INVALID)
