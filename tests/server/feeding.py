"""A request through a protocol without a model: its body in, a text in place of the engine's answer, its bytes out."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

import wavefold
from wavefold.chat import Tokenizer
from wavefold.engine import Sampling
from wavefold.engine.grammar import Grammars
from wavefold.engine.logprobs import TokenLogprob
from wavefold.engine.usage import Usage
from wavefold.server.protocol import PROTOCOLS, Asked, Context, Refused, context_of

FOLDER = Path(wavefold.__file__).parent / "models" / "default"
TOKENIZER = Tokenizer.load(FOLDER)
USER = [{"role": "user", "content": "hey"}]
CALL = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="a" string="false">12</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


GRAMMARS = Grammars(TOKENIZER, 3072, [TOKENIZER.eos_id])


def compiled(sampling: Sampling) -> None:
    """Raises ValueError for what the engine cannot hold."""
    if sampling._constraint is not None:
        GRAMMARS.compile(sampling._constraint)


def context(**changes: Any) -> Context:
    """The model that ships, under the names "m" and "other"."""
    values = {
        "window": 20_000, "vocab_size": 3072, "eos_ids": (TOKENIZER.eos_id,), "check": compiled, **changes,
    }  # fmt: skip
    return context_of(("m", "other"), FOLDER, TOKENIZER, **values)


class Answered(NamedTuple):
    """`frames`: (event, data) of a stream, comments left out. `whole`: the answer of a request without a stream."""

    asked: Asked
    frames: list[tuple[str | None, Any]]
    whole: Any
    wire: bytes


def answered(
    path: str, body: dict[str, Any], text: str | Sequence[str] = "Hello there.", reason: str = "eos",
    given: Context | None = None, error: str = "", cached: int = 3, steps: int = 1,
) -> Answered:  # fmt: skip
    """Feeds `text`, or one for each part, `steps` tokens at a time. Markers in it are tokens."""
    protocol = PROTOCOLS[path]
    asked = protocol.asked(json.dumps(body).encode(), {}, given or context())
    writer = protocol.writer(asked, "r1")
    wire = b""
    for index, part in enumerate(asked.parts):
        one = text if isinstance(text, str) else text[index]
        ids = TOKENIZER.encode(one, allow_special=True)
        wire += writer.begin(part.prompt.num_tokens, cached, index)
        fed = 0
        for first in range(0, len(ids), steps):
            step = ids[first : first + steps]
            fed += len(step)
            entries = [TokenLogprob(token, -0.5, 0, ((token, -0.5), (40, -1.5))[: part.sampling.logprobs or 0])
                       for token in step] if part.sampling.logprobs is not None else []  # fmt: skip
            wire += writer.tokens(step, entries, index)
            if writer.ended(index):
                break
        usage = Usage(part.prompt.num_tokens, cached_tokens=cached, completion_tokens=fed)
        scored = [None, *(TokenLogprob(token, -2.0, 0, ((token, -2.0),)) for token in part.prompt.ids[1:])]
        scored = scored if part.sampling.prompt_logprobs is not None else []
        if reason == "error":
            wire += writer.failure(Refused(500, error, "server_error"))
        else:
            wire += writer.finish(reason, usage, index, scored)
    return Answered(asked, frames_of(wire), None if asked.stream else json.loads(writer.whole()), wire)


def frames_of(wire: bytes) -> list[tuple[str | None, Any]]:
    """(event, data) of each frame that is no comment."""
    frames = []
    assert not wire or wire.endswith(b"\n\n")
    for block in wire.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            frames.append(
                (lines.get("event"), lines["data"] if lines["data"] == "[DONE]" else json.loads(lines["data"]))
            )
    return frames


_adapter = functools.cache(TypeAdapter)


def check_type(model: Any, value: Any, extras: frozenset[str] = frozenset()) -> Any:
    """Returns a value of a client's own type, which must know all of its fields but `extras`."""
    parsed = _adapter(model).validate_python(value)
    found = set(unknown(parsed))
    assert found <= extras, found - extras
    return parsed


def unknown(value: Any) -> Iterator[str]:
    """The fields of a client's own objects that their types do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name, None))
    elif isinstance(value, list):
        for part in value:
            yield from unknown(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from unknown(part)
