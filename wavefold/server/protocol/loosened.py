"""Tools that may be called and need not be: parameters that the engine cannot hold may have any value.

    properties  a b c d e f g h     together: no
                a b c d             yes: all of them are held
                        e f g h     no ... until the ones that cannot be held stand alone, or the work is done

What came out is remembered, since an agent sends the same tools again and again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from wavefold.server.protocol.sse import dumped
from wavefold.server.recipe import Tool

MOST_BYTES = 8 << 20
"""Of the text of tools that are remembered."""
MOST_TESTED = 1 << 18
"""Characters of schemas that are compiled for one tool, about two seconds of a core. The rest may have any value."""
TEST_CHARACTERS = 2048
"""What a compilation costs beside its characters."""

Function = dict[str, Any]


class Loosened:
    """The tools that one model has seen, as it holds them. Threads may share it."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._functions: dict[bytes, Function] = {}
        self._lock = threading.Lock()

    def of(self, tool: Tool, holds: Callable[[Function], bool]) -> Function:
        """Returns a tool whose parameters can be held. `holds` compiles one; it is False where it cannot be held."""
        text = dumped([tool.name, tool.parameters]).encode()
        digest = hashlib.sha256(text).digest()
        with self._lock:
            known = self._functions.get(digest)
        if known is not None:
            return known
        exact = function_of(tool.name, tool.parameters)
        function = exact if holds(exact) else _loose(tool, holds)
        with self._lock:
            if self.num_bytes + len(text) > MOST_BYTES:
                self._functions.clear()
                self.num_bytes = 0
            if len(text) <= MOST_BYTES and digest not in self._functions:
                self._functions[digest] = function
                self.num_bytes += len(text)
        return function


def function_of(name: str, parameters: Any) -> Function:
    """Returns a tool as `Sampling.tools` has it. `parameters`: None: it has none."""
    return {"type": "function", "function": {"name": name, "parameters": {} if parameters is None else parameters}}


def _loose(tool: Tool, holds: Callable[[Function], bool]) -> Function:
    schema = tool.parameters if isinstance(tool.parameters, dict) else {}
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    around = {key: schema[key] for key in ("$defs", "definitions") if key in schema}

    def hold(part: Mapping[str, Any]) -> bool:
        return holds(function_of(tool.name, {**around, "type": "object", "properties": part}))

    exact = _holdable(properties, hold, len(dumped(around)))
    loose: dict[str, Any] = {"type": "object", "properties": {name: exact.get(name, {}) for name in properties}}
    required = schema.get("required")
    loose["required"] = [name for name in required if name in properties] if isinstance(required, list) else []
    if not properties or schema.get("additionalProperties") not in (None, False):
        loose["additionalProperties"] = True
    return function_of(tool.name, {**around, **loose})


def _holdable(properties: Mapping[str, Any], hold: Callable[[Mapping[str, Any]], bool], around: int) -> dict[str, Any]:
    """Returns the properties that can be held together, as far as `MOST_TESTED` reaches.

    `around`: characters that each test has beside its properties.
    """
    exact: dict[str, Any] = {}
    parts, left = [list(properties)], MOST_TESTED
    while parts and left > 0:
        names = parts.pop(0)
        part = {name: properties[name] for name in names}
        left -= TEST_CHARACTERS + around + len(dumped(part))
        if left >= 0 and hold(part):
            exact |= part
        elif len(names) > 1:
            parts += [names[: len(names) // 2], names[len(names) // 2 :]]
    return exact
