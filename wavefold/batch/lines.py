"""A line of a batch: what it asks for, and how its answer is written.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "max_tokens": 64}}
    {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "def f(", "temperature": 0}}
    {"prompt": "def f(", "max_tokens": 64}     plain: with fields of `Sampling`, and "id" unless its number will do
    "def f("                                   plain

Source of the first two: OpenAI's batch API. A field that would be lost is refused by name, in the line's own result.
The model is the command's, whatever a line calls it.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wavefold.engine import Completion, Sampling
from wavefold.engine.arguments import refused
from wavefold.engine.prompts import token_ids

Kind = Literal["chat", "completion", "plain"]
URLS: Mapping[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
PLAIN_FIELDS = {field.name for field in dataclasses.fields(Sampling)}
SAME = {
    "temperature", "top_p", "top_k", "min_p", "seed", "n", "presence_penalty", "frequency_penalty",
    "repetition_penalty",
}  # fmt: skip
"""Fields of OpenAI's bodies, and of vLLM's, that `Sampling` has by the same name."""
USAGE = "prompt_tokens", "completion_tokens", "cached_tokens", "disk_tokens", "computed_tokens"
"""Of a plain line's result. OpenAI's `cached_tokens` counts those that were read from a disk too."""
WITHOUT_EFFECT = {"model", "user", "metadata", "store", "service_tier"}
NO_STREAM = {"stream": (False, None), "stream_options": (None,)}


@dataclass(frozen=True)
class Job:
    """One line. `error` says why it cannot be run; then `prompt` is None. `prompt`: text, ids, or a chat's messages."""

    number: int
    key: str
    kind: Kind
    prompt: str | Sequence[int] | Sequence[Mapping[str, object]] | None = None
    sampling: Sampling | None = None
    error: str = ""

    def result(self, completions: Sequence[Completion], model: str) -> dict[str, object]:
        """Returns the line of its result."""
        failed = next((completion.error for completion in completions if completion.error), "")
        if error := self.error or failed:
            return self._failure(error)
        if self.kind == "plain":
            answers = [_plain(completion) for completion in completions]
            return {"id": self.key, **(answers[0] if len(answers) == 1 else {"answers": answers})}
        read = max((completion.usage for completion in completions), key=lambda usage: usage.computed_tokens)
        prompt, new = read.prompt_tokens, sum(one.usage.completion_tokens for one in completions)
        body = {
            "id": f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self.kind == "chat" else "text_completion",
            "model": model,
            "choices": [_choice(completion, self.kind) for completion in completions],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": new,
                "total_tokens": prompt + new,
                "prompt_tokens_details": {
                    "cached_tokens": prompt - read.computed_tokens,
                    "disk_tokens": read.disk_tokens,
                    "computed_tokens": read.computed_tokens,
                },
            },
        }
        return self._response(200, body)

    def _failure(self, error: str) -> dict[str, object]:
        if self.kind == "plain":
            return {"id": self.key, "error": error}
        return self._response(400, {"error": {"message": error, "type": "invalid_request_error"}})

    def _response(self, status: int, body: Mapping[str, object]) -> dict[str, object]:
        request = uuid.uuid4().hex
        response = {"status_code": status, "request_id": f"req_{request}", "body": body}
        return {"id": f"batch_req_{request}", "custom_id": self.key, "response": response, "error": None}


def job_of(number: int, line: str) -> Job:
    """Returns what line `number`, from 1, asks for. It may be one that cannot be run."""
    key, kind = str(number), "plain"
    try:
        values = json.loads(line)
        if isinstance(values, str):
            return Job(number, key, "plain", values)
        if not isinstance(values, dict):
            raise ValueError(f"{line[:80]} is not allowed; expected an object or a text")
        if "custom_id" not in values and "url" not in values:
            key = str(values.pop("id", number))
            return Job(number, key, "plain", *_plain_job(values))
        key = str(values.get("custom_id", number))
        url, body = str(values.get("url")), values.get("body")
        if url not in URLS:
            kind = "completion"
            raise ValueError(f"url = {url} is not allowed; expected one of {', '.join(URLS)}")
        kind = URLS[url]
        if not isinstance(body, dict):
            raise ValueError("body is not an object")
        return Job(number, key, kind, *(_chat_job if kind == "chat" else _completion_job)(body))
    except (ValueError, TypeError, RecursionError) as error:
        return Job(number, key, kind, error=f"line {number}: {error}")  # type: ignore[arg-type]


def _plain_job(values: dict[str, Any]) -> tuple[Any, Sampling]:
    prompt = values.pop("prompt", None)
    if unknown := sorted(values.keys() - PLAIN_FIELDS):
        raise ValueError(f"{', '.join(unknown)} not known; expected prompt, id, and {', '.join(sorted(PLAIN_FIELDS))}")
    return _checked_prompt(prompt), Sampling(**values)


def _checked_prompt(prompt: object) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    if ids := token_ids("prompt", prompt):
        return ids
    raise refused("prompt", prompt, "a text, or a list of at least one token id")


def _chat_job(body: dict[str, Any]) -> tuple[Any, Sampling]:
    messages = body.pop("messages", None)
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages is not allowed; expected a list of at least one")
    fields = _shared(body)
    most = [body.pop(name) for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    fields["max_tokens"] = min(most) if most else None
    shown = body.pop("top_logprobs", None)
    if body.pop("logprobs", None):
        fields["logprobs"] = shown or 0
    fields["json_schema"] = _schema(body.pop("response_format", None))
    _refuse(body)
    return messages, Sampling(**fields)


def _completion_job(body: dict[str, Any]) -> tuple[Any, Sampling]:
    prompt = _checked_prompt(body.pop("prompt", None))
    fields = _shared(body)
    fields["max_tokens"] = body.pop("max_tokens", None)
    fields["logprobs"], fields["echo"] = body.pop("logprobs", None), bool(body.pop("echo", False))
    _refuse(body)
    return prompt, Sampling(**fields)


def _shared(body: dict[str, Any]) -> dict[str, Any]:
    """Takes the fields that both kinds have out of a body."""
    fields = {name: body.pop(name) for name in SAME & body.keys() if body[name] is not None}
    stop = body.pop("stop", None)
    if stop is not None:
        fields["stop"] = (stop,) if isinstance(stop, str) else stop
    if (bias := body.pop("logit_bias", None)) is not None:
        fields["logit_bias"] = {int(token): value for token, value in bias.items()}
    return fields


def _schema(form: object) -> object:
    if form is None or form == {"type": "text"}:
        return None
    if form == {"type": "json_object"}:
        return {"type": "object"}
    if isinstance(form, dict) and form.get("type") == "json_schema" and "schema" in form.get("json_schema", {}):
        return form["json_schema"]["schema"]
    raise ValueError(
        "response_format is not allowed; expected the type text, json_object, or json_schema with a schema"
    )


def _refuse(body: Mapping[str, object]) -> None:
    """Raises ValueError for a field that would be lost."""
    for name, value in body.items():
        if name in WITHOUT_EFFECT or value is None or value in NO_STREAM.get(name, ()):
            continue
        raise ValueError(f"{name} = {str(value)[:80]} is not supported in a batch; leave it out")


def _plain(completion: Completion) -> dict[str, object]:
    values: dict[str, object] = {
        "text": completion.text, "finish_reason": completion.finish_reason,
        "usage": {name: getattr(completion.usage, name) for name in USAGE},
    }  # fmt: skip
    if completion.text is None:
        values["tokens"] = completion.tokens
    if completion.tool_calls is not None:
        values["tool_calls"] = [call._asdict() for call in completion.tool_calls]
    if completion.logprobs is not None:
        values["logprobs"] = [(entry.id, entry.logprob) for entry in completion.logprobs]
    return values


REASONS = {"eos": "stop", "context": "length"}
"""Finish reasons in OpenAI's words."""


def _choice(completion: Completion, kind: Kind) -> dict[str, object]:
    reason = REASONS.get(completion.finish_reason, completion.finish_reason)
    choice: dict[str, object] = {"index": completion.index, "finish_reason": reason}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": completion.text}
    else:
        choice["text"] = completion.text
    if completion.logprobs is not None:
        tokens = [{"token_id": entry.id, "logprob": entry.logprob} for entry in completion.logprobs]
        choice["logprobs"] = {"content": tokens} if kind == "chat" else {"token_logprobs": tokens}
    return choice
