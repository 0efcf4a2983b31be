"""What holds an answer: tools and their choice, or a schema, as the engine's `Sampling` takes them.

A tool that may be called, and does not have to be (`auto`), is held as far as the engine can, unless it is `strict`:
a parameter whose schema it cannot hold may have any value. All other schemas are held as they are, or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from wavefold.engine import Sampling
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused
from wavefold.server.protocol.sse import dumped
from wavefold.server.recipe import Tool

ANY_OBJECT = {"type": "object"}
MOST_KNOWN = 512
"""Tools whose loosened form is remembered: an agent sends the same ones again and again."""


class Wanted(NamedTuple):
    """What a request demands of its answer. `choice`: "auto", "none" or "required"; then `name` may say of which tool.

    `strict`: names of the tools that are held as they are. `schema`: of the answer's text, or None. `schema_field`:
    where the body has it.
    """

    choice: str = "auto"
    parallel: bool = True
    strict: Collection[str] = ()
    schema: dict[str, Any] | None = None
    schema_field: str = "response_format"
    any_object: bool = False
    """The schema is that of any object: a prompt has words for it."""
    name: str | None = None
    """Apart from `choice`: a tool may be called "none"."""


def choice_of(choice: object, name: str | None) -> str:
    """Returns `Wanted.choice` of a choice as OpenAI has it, which may be of the tool `name`."""
    return "required" if name is not None else "auto" if choice is None else str(choice)


def held(wanted: Wanted, tools: Sequence[Tool], thinking: bool, context: Context) -> dict[str, Any]:
    """Returns the fields of `Sampling` that hold the answer, an empty mapping where it is free.

    A schema beside tools is of answers without calls. Raises `Refused` for what cannot be held.
    """
    if not tools or wanted.choice == "none":
        if wanted.choice == "required":
            raise Refused(
                400, f"tool_choice = {wanted.name or wanted.choice!r} is not allowed without tools",
                INVALID, "tool_choice",
            )  # fmt: skip
        if wanted.schema is None:
            return {}
        fields = {"json_schema": wanted.schema, "thinking": thinking}
        _check(fields, context, wanted.schema_field)
        return fields
    return _calls(wanted, tools, thinking, context)


def _calls(wanted: Wanted, tools: Sequence[Tool], thinking: bool, context: Context) -> dict[str, Any]:
    name = wanted.name
    is_free = wanted.choice == "auto"
    if not context.chats.holds_calls:
        if not is_free or not wanted.parallel or wanted.strict or wanted.schema is not None:
            raise Refused(
                400, f"with the prompt profile {context.chats.name!r} calls are not held: expected tool_choice 'auto', "
                "several calls, tools that are not strict, and no schema of the answer", INVALID, "tools",
            )  # fmt: skip
        return {}
    if name is not None and name not in [tool.name for tool in tools]:
        names = ", ".join(repr(tool.name) for tool in tools)
        raise Refused(400, f"tool_choice {name!r} is none of the tools: {names}", INVALID, "tool_choice")
    used = [tool for tool in tools if name in (None, tool.name)]
    functions = [
        _loosened(tool, context) if is_free and tool.name not in wanted.strict else _function(tool) for tool in used
    ]
    fields = {
        "tools": functions, "tool_choice": wanted.choice if name is None else _named(name),
        "parallel_tool_calls": wanted.parallel, "thinking": thinking, "json_schema": wanted.schema,
    }  # fmt: skip
    _check(fields, context, "tools")
    return fields


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _function(tool: Tool, parameters: Any = None) -> dict[str, Any]:
    schema = tool.parameters if parameters is None else parameters
    return {"type": "function", "function": {"name": tool.name, "parameters": {} if schema is None else schema}}


def _check(fields: dict[str, Any], context: Context, place: str) -> None:
    try:
        context.check(Sampling(**fields))
    except ValueError as error:
        raise Refused(400, str(error), INVALID, place) from None


def _loosened(tool: Tool, context: Context) -> dict[str, Any]:
    """Returns a tool whose parameters the engine can hold: as they are, or with any values for some of them."""
    key, kept = dumped([tool.name, tool.parameters]), context.loosened
    if (known := kept.get(key)) is None:
        known = kept[key] = _function(tool) if _holds(_function(tool), context) else _loose(tool, context)
        if len(kept) > MOST_KNOWN:
            kept.clear()
    return known


def _holds(function: dict[str, Any], context: Context) -> bool:
    try:
        context.check(Sampling(tools=[function]))
    except ValueError:
        return False
    return True


def _loose(tool: Tool, context: Context) -> dict[str, Any]:
    schema = tool.parameters if isinstance(tool.parameters, dict) else {}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    around = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    loose: dict[str, Any] = {"type": "object", "properties": {}}
    for name, value in properties.items():
        alone = {**around, "type": "object", "properties": {name: value}}
        loose["properties"][name] = value if _holds(_function(tool, alone), context) else {}
    required = schema.get("required")
    loose["required"] = [name for name in required if name in properties] if isinstance(required, list) else []
    if not properties or schema.get("additionalProperties") not in (None, False):
        loose["additionalProperties"] = True
    return _function(tool, {**around, **loose})
