"""What holds an answer: tools and their choice, or a schema, as the engine's `Sampling` takes them.

A tool that may be called, and does not have to be (`auto`), is held as far as the engine can, unless it is `strict`:
a parameter whose schema it cannot hold may have any value. All other schemas are held as they are, or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

from wavefold.engine import Sampling
from wavefold.server.protocol.context import Context
from wavefold.server.protocol.errors import INVALID, Refused
from wavefold.server.protocol.loosened import Function, function_of
from wavefold.server.recipe import Tool

ANY_OBJECT = {"type": "object"}


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
        context.loosened.of(tool, partial(_holds, context=context))
        if is_free and tool.name not in wanted.strict
        else function_of(tool.name, tool.parameters)
        for tool in used
    ]
    fields = {
        "tools": functions, "tool_choice": wanted.choice if name is None else _named(name),
        "parallel_tool_calls": wanted.parallel, "thinking": thinking, "json_schema": wanted.schema,
    }  # fmt: skip
    _check(fields, context, "tools")
    return fields


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _check(fields: dict[str, Any], context: Context, place: str) -> None:
    try:
        context.check(Sampling(**fields))
    except ValueError as error:
        raise Refused(400, str(error), INVALID, place) from None


def _holds(function: Function, context: Context) -> bool:
    try:
        context.check(Sampling(tools=[function]))
    except ValueError:
        return False
    return True
