"""Random sets of tools, in OpenAI's form, with parameters of all kinds that a call can be held to."""

from __future__ import annotations

import random
from typing import Any

from wavefold.engine.tools import DSML

Schema = dict[str, Any]
TEXTS: list[Schema] = [
    {"type": "string", "maxLength": 12}, {"type": "string", "minLength": 2, "maxLength": 6},
    {"type": "string", "enum": ["left", "right", "</left", 'a "b"\n', ""]}, {"type": "string", "const": "\\only"},
    {"type": "string", "pattern": "^[a-z]{1,4}/[0-9]{2}$"}, {"type": "string", "pattern": "^a|b$", "maxLength": 4},
    {"type": "string", "pattern": "[xy]", "maxLength": 5}, {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"}, {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "time"},
    {"allOf": [{"$ref": "#/$defs/short"}], "minLength": 1},
]  # fmt: skip
OTHERS: list[Schema] = [
    {"type": "integer", "minimum": 0, "maximum": 99}, {"type": "boolean"}, {"type": "null"}, {"const": 3.5},
    {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    {"type": "object", "properties": {"in": {"$ref": "#/$defs/tree"}, "s": {"type": "string", "maxLength": 4}},
     "required": ["in"], "additionalProperties": False},
    {"$ref": "#/$defs/tree"}, {"enum": [[1, 2], {"a": "b"}, None]},
]  # fmt: skip
BOTH: list[Schema] = [
    {"type": ["string", "null"], "maxLength": 4}, {"enum": ["a", 1, None, "b</", {"c": "d"}]},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"oneOf": [{"type": "boolean"}, {"$ref": "#/$defs/short"}]}, {"anyOf": [{"$ref": "#/$defs/either"}]},
    {"allOf": [{"type": ["string", "boolean", "integer"]}, {"type": ["boolean", "string"], "maxLength": 2}]},
]  # fmt: skip
DEFS: Schema = {
    "short": {"type": "string", "maxLength": 5},
    "tree": {
        "anyOf": [
            {"type": "null"},
            {"type": "array", "items": {"$ref": "#/$defs/tree"}, "minItems": 1, "maxItems": 2},
        ]
    },
    "either": {"anyOf": [{"const": "x"}, {"type": "array", "items": {"$ref": "#/$defs/either"}, "maxItems": 1}]},
}


def tool(drawn: random.Random, name: str, schemas: list[Schema]) -> dict[str, Any]:
    names = drawn.sample(["x", "path", "n", "ä-1", "of_all", "$", "p", "x2"], drawn.randint(0, 4))
    properties = {name: drawn.choice(schemas) | {"description": f"</{DSML}parameter> of {name}"} for name in names}
    parameters: Schema = {"type": "object", "properties": properties, "$defs": DEFS}
    if drawn.random() < 0.8:
        parameters["required"] = [name for name in names if drawn.random() < 0.6]
    if drawn.random() < 0.7:
        kinds = [False, True, drawn.choice(schemas)]
        parameters["additionalProperties"] = drawn.choice(kinds)
    return {"type": "function", "function": {"name": name, "description": f"<{DSML}tool_calls>",
            "parameters": parameters, "strict": drawn.random() < 0.5}}  # fmt: skip


ALL = [*TEXTS, *OTHERS, *BOTH]


def tool_set(drawn: random.Random, schemas: list[Schema] = ALL) -> list[dict[str, Any]]:
    """Returns one to four tools, some of whose names begin like others."""
    names = drawn.sample(["f", "fo", "foo", "read_file", "read-file", "9"], drawn.randint(1, 4))
    return [tool(drawn, name, schemas) for name in names]


def choice(drawn: random.Random, tools: list[dict[str, Any]]) -> Any:
    name = drawn.choice(tools)["function"]["name"]
    named = {"type": "function", "function": {"name": name}}
    return drawn.choice(["required", "required", "auto", "none", name, {"name": name}, named])
