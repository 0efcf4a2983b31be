"""/docs: the fields of every body and of the objects within them, in words. A page without scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from wavefold.server.openapi import name_of

STYLE = (
    "body{font-family:sans-serif;line-height:1.4;max-width:70rem;margin:auto;padding:1rem}"
    "table{border-collapse:collapse}th,td{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}"
    "tbody th{font-weight:normal;white-space:nowrap}tr+tr>*,tbody>:first-child>*{border-top:1px solid #ddd}"
    ".scroll{overflow-x:auto}nav li{line-height:1.8}"
)
PLAIN = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null",
    "array": "list", "object": "object",
}  # fmt: skip


def docs_page(description: Mapping[str, Any]) -> str:
    """Returns a page that says what is in the description of the API."""
    schemas = description["components"]["schemas"]
    links, parts, bodies = [], [], set()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            title = f"<code>{method.upper()} {html.escape(path)}</code>"
            links.append(f"<li><a href='#{html.escape(path)}'>{title}</a></li>")
            parts.append(f"<h2 id='{html.escape(path)}'>{title}</h2><p>{html.escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                body = name_of(operation["requestBody"]["content"]["application/json"]["schema"]["$ref"])
                bodies.add(body)
                parts.append(_table(schemas[body], f"Fields of {path}"))
    objects = sorted(schemas.keys() - bodies)
    if objects:
        links.append("<li><a href='#objects'>Objects within them</a></li>")
        parts.append("<h2 id='objects'>Objects within them</h2>")
    for name in objects:
        about = html.escape(schemas[name].get("description", ""))
        parts.append(f"<h3 id='{name}'>{name}</h3>{about and f'<p>{about}</p>'}")
        parts.append(_table(schemas[name], f"Fields of {name}"))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Wavefold: API</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head>"
        f"<body><main><h1>{html.escape(description['info']['title'])}</h1>"
        "<p>The same for programs: <a href='/openapi.json'>/openapi.json</a>.</p>"
        f"<nav aria-label='Paths'><ul>{''.join(links)}</ul></nav>{''.join(parts)}</main></body></html>"
    )


def _table(schema: Mapping[str, Any], label: str) -> str:
    rows = []
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        note = "<br>required" if name in required else ""
        default = field.get("default")
        told = "" if default is None else f"; {_code(default)} if it is left out"
        about = html.escape(field.get("description", ""))
        rows.append(f"<tr><th scope='row'><code>{html.escape(name)}</code>{note}</th><td>{kind(field)}{told}"
                    f"{about and f'<br>{about}'}</td></tr>")  # fmt: skip
    if not rows:
        return "<p>No fields.</p>"
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{html.escape(label)}'><table><thead><tr>"
        "<th scope='col'>Field</th><th scope='col'>What it takes</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def kind(schema: Any) -> str:
    """Returns what a schema takes, in words of HTML; other schemas are links to their sections."""
    if not isinstance(schema, Mapping):
        return "anything"
    if "$ref" in schema:
        name = name_of(schema["$ref"])
        return f"<a href='#{name}'>{name}</a>"
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return " or ".join(_code(value) for value in schema["enum"])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(kind(choice) for choice in choices)
    word = PLAIN.get(schema.get("type", ""), "anything")
    if word == "list":
        return _list(schema)
    if word == "object" and isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"object whose values are each {kind(values)}"
    if "pattern" in schema:
        return f"{word} of the form <code>{html.escape(schema['pattern'])}</code>"
    if word == "text":
        length = _range(schema.get("minLength"), schema.get("maxLength"))
        return f"text of {length} characters" if length else "text"
    return " ".join(part for part in (word, _bounds(schema)) if part)


def _list(schema: Mapping[str, Any]) -> str:
    items = kind(schema.get("items"))
    count = _range(schema.get("minItems"), schema.get("maxItems"))
    within = f"({items})" if " or " in items else items
    return f"list ({count}) of {within}" if count else f"list of {within}"


def _range(least: int | None, most: int | None) -> str:
    if most is None:
        return "" if least is None else f"at least {least:,}"
    return f"at most {most:,}" if not least else f"{least:,} to {most:,}"


def _bounds(schema: Mapping[str, Any]) -> str:
    """Returns the limits of a number."""
    words = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
    return " ".join(f"{word} {schema[name]:,}" for name, word in words if name in schema)


def _code(value: Any) -> str:
    return f"<code>{html.escape(json.dumps(value), quote=False)}</code>"
