"""A line of a batch, in the format of OpenAI's batch API: what it asks, of which path and which model.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [...]}}

What is in the body is the server's to judge, when the line is answered. What the queue needs is checked here: all
problems of a file are known before one of its lines is kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Endpoints that a batch may be for."""
MOST_LINE = 8 * 2**20
"""Bytes of a line, as of a request's body."""
MOST_LINES = 1_000_000
MOST_ID = 512
NO_MODEL = (
    'names no model; expected "model" in the line, or in its body where it has one; or one for all lines: --model, or '
    "over HTTP the model of the batch"
)
MOST_SHOWN = 30
"""Models that an error names."""
FIELDS = frozenset(("custom_id", "method", "url", "body"))


class Line(NamedTuple):
    """`body`: JSON without needless characters, of `MOST_LINE` bytes at most."""

    custom_id: str
    path: str
    model: str
    body: str


class LineError(ValueError):
    """A line that cannot be in a batch. `code`: OpenAI's word for it. `line`: its number, from 1."""

    def __init__(self, code: str, message: str, line: int | None = None, param: str | None = None):
        super().__init__(f"line {line}: {message}" if line else message)
        self.code, self.message, self.line, self.param = code, message, line, param

    def values(self) -> dict[str, Any]:
        """Returns the error as a batch has it."""
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


def numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields number and bytes of each line that is not blank. Raises LineError for one that is too long."""
    number = 0
    while data := file.readline(MOST_LINE + 1):
        number += 1
        if len(data) > MOST_LINE:
            raise LineError("line_too_long", f"has more than {MOST_LINE:,} bytes, the most that is read", number)
        if data.strip():
            yield number, data


def decoded(number: int, data: bytes, expected: str) -> Any:
    """Returns the JSON of a line. Raises LineError, which ends with what was expected."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise LineError("invalid_json_line", f"is no JSON ({str(error)[:200]}); {expected}", number) from None


def object_of(number: int, data: bytes) -> dict[str, Any]:
    """Returns the JSON object of a line. Raises LineError."""
    values = decoded(number, data, "expected an object")
    if not isinstance(values, dict):
        raise LineError("invalid_json_line", "is no JSON object; expected one with custom_id, url and body", number)
    return values


def line_of(
    number: int, values: dict[str, Any], endpoint: str | None = None, model: str | None = None,
    offered: Collection[str] | None = None,
) -> Line:  # fmt: skip
    """Returns what a line asks. `endpoint`: the only one that is allowed. `model`: in the place of the body's.

    `offered`: the models that there are (None: not known). Raises LineError.
    """
    if unknown := sorted(values.keys() - FIELDS):
        raise LineError("unknown_parameter", f"{unknown[0][:80]} is not known; expected {', '.join(sorted(FIELDS))}",
                        number, unknown[0][:80])  # fmt: skip
    custom_id, path, body = values.get("custom_id"), values.get("url"), values.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MOST_ID:
        raise LineError("invalid_custom_id", f"custom_id is not allowed; expected a text of 1 to {MOST_ID} characters",
                        number, "custom_id")  # fmt: skip
    if (method := values.get("method")) != "POST":
        problem = "is missing" if method is None else f"= {str(method)[:80]!r} is not allowed"
        raise LineError("invalid_method", f"method {problem}; expected POST", number, "method")
    if path not in PATHS or path != (endpoint or path):
        expected = endpoint or f"one of {', '.join(PATHS)}"
        raise LineError("invalid_url", f"url = {str(path)[:80]!r} is not allowed; expected {expected}", number, "url")
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "body is no object", number, "body")
    if body.get("stream"):
        raise LineError("invalid_value", "stream is not supported in a batch; leave it out", number, "body.stream")
    name = model if model is not None else body.get("model")
    if not isinstance(name, str) or not 0 < len(name) <= MOST_ID:
        raise LineError("missing_required_parameter", NO_MODEL, number, "body.model")
    if offered is not None and name not in offered:
        known = ", ".join(sorted(offered)[:MOST_SHOWN]) + (", ..." if len(offered) > MOST_SHOWN else "")
        raise LineError("model_not_found", f"model {name[:80]!r} is not served; expected one of {known or 'no models'}",
                        number, "body.model")  # fmt: skip
    text = _json(number, {**body, "model": name})
    if (size := len(text.encode())) > MOST_LINE:
        raise LineError("line_too_long", f"has a body of {size:,} bytes; expected {MOST_LINE:,} at most", number)
    return Line(_clean(custom_id), str(path), _clean(name), text)


def _json(number: int, body: dict[str, Any]) -> str:
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except RecursionError:
        raise LineError("invalid_json_line", "is nested too deeply", number, "body") from None
    except UnicodeEncodeError:  # half of a surrogate pair stays escaped
        return json.dumps(body, separators=(",", ":"))
    return text


def _clean(text: str) -> str:
    """A text that can be encoded: half of a surrogate pair is replaced."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
