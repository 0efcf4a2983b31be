"""Tools that an answer may call, in OpenAI's form, and which of them it must: checked, and as one text.

    tools        [{"type": "function", "function": {"name": "f", "description": ..., "parameters": SCHEMA}}]
    tool_choice  "auto": text, then calls or none    "required": calls alone    "none": text without calls
                 {"type": "function", "function": {"name": "f"}}, {"name": "f"} or "f": one call of this tool

Descriptions are for prompts: an answer is not held to them. `strict` changes nothing: every call is held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wavefold.chat.special_tokens import DSML
from wavefold.engine.arguments import refused
from wavefold.engine.schemas import KEYWORDS, Schema, parts_of, problem_of_schema

NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
CHOICES = ("auto", "required", "none")
FORM = '{"type": "function", "function": {"name": NAME, "description": TEXT, "parameters": SCHEMA}}'
CHOICE_FORM = '"auto", "required", "none", or a tool: its name, {"name": NAME} or OpenAI\'s form'
HELD = ("type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema")
ONLY_SAID = ("title", "description", "default", "example", "examples", "$comment", "deprecated", "externalDocs")
"""Keywords of `parameters` itself that a call is held to, and those that only describe."""
UNFIT = re.compile(r'[\s\x00-\x1f\x7f"\\<>&]')
"""Characters that no name of a parameter may have: it stands between quotes in a tag, where
readers split at blanks."""


class Tool(NamedTuple):
    """`parameters`: a schema whose `type` is object."""

    name: str
    parameters: Schema


class Calls(NamedTuple):
    """What an answer may call. `choice`: "auto", "required" or "none". `parallel`: several calls are allowed.

    `answer`: the schema of an answer without calls, which is JSON then; None: free text.
    """

    tools: tuple[Tool, ...]
    choice: str
    parallel: bool
    answer: Schema | None = None

    @property
    def text(self) -> str:
        """All of it in JSON, from which `calls_of` makes it again."""
        tools = [tool._asdict() for tool in self.tools]
        values = {"choice": self.choice, "parallel": self.parallel, "tools": tools, "answer": self.answer}
        return json.dumps(values, ensure_ascii=False)


def calls_of(text: str) -> Calls:
    """Returns what `Calls.text` wrote."""
    values = json.loads(text)
    tools = tuple(Tool(**tool) for tool in values["tools"])
    return Calls(tools, values["choice"], values["parallel"], values["answer"])


def checked_calls(tools: Sequence[object], choice: object, parallel: bool) -> Calls | None:
    """Returns what an answer may call, or None where there are no tools and none is asked for.

    Raises ValueError, which names tool and keyword, for a tool in another form, two of one name, a schema that no call
    can be held to, and for a choice of a tool that is not there.
    """
    known = [_tool(number, tool) for number, tool in enumerate(tools)]
    names = [tool.name for tool in known]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"tools: two are called {twice[0]!r}; expected a name of its own for each")
    choice = "auto" if choice is None else choice
    name = choice if isinstance(choice, str) else _chosen(choice)
    if not known and name not in ("auto", "none"):
        raise ValueError(f"tool_choice = {choice!r} is not allowed without tools; expected a tool in tools")
    if isinstance(choice, str) and choice in CHOICES:
        return Calls(tuple(known), choice, parallel) if known else None
    if name not in names:
        raise refused("tool_choice", choice, f"one of {', '.join((*CHOICES, *names))}")
    return Calls((known[names.index(name)],), "required", False)


def _chosen(choice: object) -> str:
    """Returns the name in a choice that is a mapping."""
    function = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(choice, Mapping) or choice.get("type", "function") != "function" or not isinstance(name, str):
        raise refused("tool_choice", choice, CHOICE_FORM)
    return name


def _tool(number: int, tool: object) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(function, Mapping):
        raise refused(f"tools[{number}]", tool, FORM)
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise refused(f"tools[{number}]: name", name, "1 to 128 of the characters a-z, A-Z, 0-9, _ and -")
    if unknown := [key for key in function if key not in ("name", "description", "parameters", "strict")]:
        raise refused(f"tool {name!r}: {unknown[0]}", function[unknown[0]], f"keys of {FORM} and strict")
    try:
        schema: Any = json.loads(json.dumps({} if parameters is None else parameters))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"tool {name!r}: parameters are no JSON: {error}; expected a schema") from None
    if not isinstance(schema, dict):
        raise refused(f"tool {name!r}: parameters", parameters, "a schema whose type is object")
    if problem := _problem(schema):
        raise ValueError(f"tool {name!r}: parameters are not allowed: {problem}")
    return Tool(name, schema)


def _problem(schema: Schema) -> str:
    """Returns why no call can be held to a tool's parameters, or an empty text."""
    for keyword in schema:
        if keyword in KEYWORDS and keyword not in (*HELD, *ONLY_SAID):
            return f"#: {keyword} of a whole call is not held; expected {', '.join(HELD)}"
    if (kind := schema.get("type", "object")) != "object":
        return f"#: type {kind!r} is not allowed; expected 'object'"
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return "#: expected a mapping in properties and a list in required"
    for name in properties:
        if not name or UNFIT.search(name):
            return f"#/properties: name {name!r} is not allowed; expected no blanks, quotes, \\, <, > and &"
    for name in required:
        if name not in properties:
            return f"#: required {name!r} is none of its properties; expected names of properties"
    return problem_of_schema(schema) or _marked(schema)


def _marked(schema: Schema) -> str:
    """A marker of tool calls in what a call would have to say."""
    for path, part in parts_of(schema):
        said = [part.get(key) for key in ("const", "enum", "pattern", "required")]
        for key in ("properties", "patternProperties"):
            said += list(part[key]) if isinstance(part.get(key), Mapping) else []
        if DSML in json.dumps(said, ensure_ascii=False):
            return f"{path}: {DSML} is not allowed in names and values; it marks tool calls"
    return ""
