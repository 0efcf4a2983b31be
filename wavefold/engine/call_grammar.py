"""Tool calls in DeepSeek-V4's form (encoding_dsv4), as a grammar in Lark.

    text that is free, or JSON in place of calls           with "auto" and "none"
    <blank line>
    <｜DSML｜tool_calls>
    <｜DSML｜invoke name="f">
    <｜DSML｜parameter name="p" string="true">a text as it is</｜DSML｜parameter>
    <｜DSML｜parameter name="q" string="false">{"in": "JSON"}</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜tool_calls>

`｜DSML｜` is one token, which the grammar names by its id. Parameters come in the order of the schema, each at most
once, and after them those that `additionalProperties` allows. Where it is not given, there are none.

A text that is open to any characters is a lexeme without an end: what must stand before the marker is left to
markup.py, since an end of `</` in it would make llguidance walk the whole vocabulary after each `<`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from wavefold.engine.call_values import Values, values_of
from wavefold.engine.texts import literal
from wavefold.engine.tools import Calls, Tool

END = "</"
EXTRA_NAME = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/"


class Part(NamedTuple):
    """Rules of one parameter. `place` names it in errors. `text`: the terminal of a text that there may not be."""

    place: str
    lines: tuple[str, ...]
    text: str = ""


class CallGrammar(NamedTuple):
    """`source` in Lark; `parts` of it, each of which is a grammar with `with_start`."""

    source: str
    parts: tuple[Part, ...]


def call_grammar(calls: Calls, marker: int, json_options: dict[str, Any]) -> CallGrammar:
    """Returns the grammar of an answer. `marker`: the id of `｜DSML｜`.

    Raises ValueError, which names tool, parameter and keyword, for what an answer cannot be held to.
    """
    block = r'"\n\n<" block' if calls.choice == "required" or calls.answer is not None else "FREE block?"
    repeated = "call+" if calls.parallel else "call"
    lines = [
        "start: FREE" if calls.choice == "none" else f"start: {block}",
        "FREE: /(?s:.*)/",
        f'block: d "tool_calls>\\n" {repeated} "{END}" d "tool_calls>"',
        f"d: <[{marker}]>",
    ]
    heads, parts = [], []
    if calls.answer is not None and calls.choice == "auto":
        schema = json.dumps({**calls.answer, "x-guidance": json_options}, ensure_ascii=False)
        lines[0] = f"start: answer | {block}"
        parts.append(Part("json_schema", (f"answer: %json {schema}",)))
    for number, tool in enumerate(calls.tools):
        names = []
        for part, symbol in _parameters(tool, number, json_options):
            names.append(symbol)
            parts.append(part)
        head = literal(f'invoke name="{tool.name}">\n')
        lines.append(f"f{number}: {' '.join([head, *names])}")
        heads.append(f"f{number}")
    lines.append(f'call: "<" d ({" | ".join(heads)}) "{END}" d "invoke>\\n"')
    if calls.choice == "none":
        return CallGrammar("\n".join(lines[:2]), tuple(parts))
    return CallGrammar("\n".join([*lines, *(line for part in parts for line in part.lines)]), tuple(parts))


def _parameters(tool: Tool, number: int, json_options: dict[str, Any]) -> Iterator[tuple[Part, str]]:
    """The rules of each parameter, and how the call names them."""
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", [])
    for place, (name, schema) in enumerate(properties.items()):
        part = _part(tool, f"p{number}_{place}", f"parameter {name!r}", schema, json_options, name, properties)
        if part is not None:
            yield part, f"p{number}_{place}" + ("" if name in required else "?")
        elif name in required:
            raise ValueError(f"tool {tool.name!r}, parameter {name!r}: no value satisfies it")
    more = tool.parameters.get("additionalProperties", False)
    part = _part(tool, f"p{number}_more", "additionalProperties", more, json_options, None, properties)
    if part is not None:
        yield part, f"p{number}_more*"


def _part(
    tool: Tool, symbol: str, said: str, schema: Any, json_options: dict[str, Any], name: str | None,
    properties: dict[str, Any],
) -> Part | None:  # fmt: skip
    """Returns the rules of a parameter, or of all others where `name` is None; None where it has no value."""
    place = f"tool {tool.name!r}, {said}"
    try:
        values = values_of(schema, tool.parameters)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from None
    forms, lines, text = [], [], ""
    for is_text in (True, False):
        if (values.text if is_text else values.schema) is None:
            continue
        head, head_lines = _head(f"{symbol.upper()}_{'T' if is_text else 'J'}", name, properties, is_text)
        value, value_lines, terminal = _value(values, symbol, is_text, json_options)
        forms.append(f"{head} {value} d")
        lines += [*head_lines, *value_lines]
        text = text or terminal
    if not forms:
        return None
    rule = f'{symbol}: "<" d ({" | ".join(forms)}) "parameter>\\n"'
    return Part(place, (rule, *lines), text)


def _head(symbol: str, name: str | None, properties: dict[str, Any], is_text: bool) -> tuple[str, list[str]]:
    """The tag before a value: as a text, or as a terminal where the name is open."""
    end = f'" string="{"true" if is_text else "false"}">'
    if name is not None:
        return literal(f'parameter name="{name}{end}'), []
    others = f" & ~({' | '.join(map(literal, properties))})" if properties else ""
    terminal = f"{literal('parameter name=' + chr(34))} ({EXTRA_NAME}{others}) {literal(end)}"
    return f"N{symbol}", [f"N{symbol}: {terminal}"]


def _value(values: Values, symbol: str, is_text: bool, json_options: dict[str, Any]) -> tuple[str, list[str], str]:
    """A value up to its end, the lines that it needs, and the terminal of a text that may have no text."""
    if not is_text:
        schema = json.dumps({**(values.schema or {}), "x-guidance": json_options}, ensure_ascii=False)
        return f'{symbol}_j "{END}"', [f"{symbol}_j: %json {schema}"], ""
    assert values.text is not None
    terminal = f"V{symbol.upper()}"
    if values.text.is_open:
        return terminal, [f"{terminal}: {values.text.expression(len(END))}"], ""
    lines = [f'{terminal}: ({values.text.expression()}) "{END}"']
    return terminal, lines, terminal if values.text.num_demands > 1 else ""
