"""Bodies of requests: JSON, read once, and held against a model that names every field that is accepted.

bytes -> JSON object (`parsed`) -> model (`checked`), or `Refused` with the field that is wrong

A field that no model has is refused by its name: a client that asks for something is told, and not answered as if it
had not asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from wavefold.server.protocol.errors import INVALID, Refused
from wavefold.server.protocol.problems import SHOWN, noun, refusal

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MOST_TURNS = 100_000
"""As Anthropic's service has it."""


class Body(BaseModel):
    """An object of JSON whose fields are all known."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Fields that other protocols have here, and what this one has in their place."""


AnyBody = TypeVar("AnyBody", bound=Body)
AnyPart = TypeVar("AnyPart")
Many = Annotated[list[AnyPart], Field(fail_fast=True)]
"""A list that is read up to its first wrong element: 4 MB of wrong ones would take ten seconds, and hold the GIL."""
Harmless = Annotated[Any, Field(default=None, description="Accepted, and changes nothing here.")]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
Schema = dict[str, Any]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
Efforts = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"]


def by(key: str, default: str | None = None) -> Discriminator:
    """Tells the members of a union apart by a field: each member has the tag `~` and the value of its Literal.

    `default`: the value of an object without the field. problems.py takes the tags out of places again.
    """

    def tag(value: Any) -> str:
        named = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return f"~{named}"[:SHOWN]

    return Discriminator(tag)


def _form(value: Any) -> str:
    return "~text" if isinstance(value, str) else "~parts"


BY_FORM = Discriminator(_form)
"""Tells a text from a list of parts: tags `~text` and `~parts`."""
AsText = Annotated[str, Tag("~text")]


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


def parsed(body: bytes) -> dict[str, Any]:
    """Returns the object of JSON in a body. Raises `Refused` for anything else, and for what JSON does not have."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
        if SURROGATE.search(body):  # an escape alone makes one, of what is UTF-8
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(400, "the body has half of a surrogate pair; expected Unicode characters", INVALID) from None
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8; expected JSON in UTF-8", INVALID) from None
    except RecursionError:
        raise Refused(400, "the body's values lie too deep in each other; expected fewer levels", INVALID) from None
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}"[:500], INVALID) from None
    if not isinstance(value, dict):
        raise Refused(400, f"the body is {noun(value)}; expected an object", INVALID)
    return value


def name_in(body: bytes) -> str:
    """Returns the model that a body names. Raises `Refused` for a body that is no JSON object, or names none."""
    name = parsed(body).get("model")
    if not isinstance(name, str) or not name:
        raise Refused(400, "model is missing; expected the name of a model", INVALID, "model")
    return name


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is more than a number of 64 bits is")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def checked(model: type[AnyBody], value: dict[str, Any]) -> AnyBody:
    """Returns a body as its model. Raises `Refused`, which names the fields that are wrong.

    Fields that are null ask for nothing: some clients send all that they know, also those that are not known here.
    """
    try:
        return model.model_validate({name: one for name, one in value.items() if one is not None})
    except ValidationError as error:
        raise refusal(error, model) from None
    except RecursionError:
        raise Refused(400, "the body's values lie too deep in each other; expected fewer levels", INVALID) from None
