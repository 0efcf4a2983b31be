"""/docs tells every field of every body, in words; nothing of it leads nowhere, and its schemas are the bodies' own."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from wavefold.server.app import COUNTS, PROTOCOLS
from wavefold.server.docs_page import docs_page, kind
from wavefold.server.openapi import name_of, openapi

COUNTED = {path: body for path, (body, _) in COUNTS.items()}
BODIES = {**{path: one.model_body for path, one in PROTOCOLS.items()}, **COUNTED}
DESCRIPTION = openapi(PROTOCOLS, COUNTED, "a model")
SCHEMAS = DESCRIPTION["components"]["schemas"]
PAGE = docs_page(DESCRIPTION)


def followed(schema: Any, defined: dict[str, Any]) -> Any:
    """A schema with others in the place of its references."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return followed(defined[name_of(schema["$ref"])], defined)
        return {key: followed(value, defined) for key, value in schema.items() if key != "discriminator"}
    return [followed(one, defined) for one in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("path", BODIES)
def test_the_description_has_each_body_with_its_own_objects(path: str) -> None:
    """Protocols have objects of one name that differ."""
    content = DESCRIPTION["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    own = BODIES[path].model_json_schema()
    defined = own.pop("$defs", {})
    assert followed(content, SCHEMAS) == followed(own, defined)


def test_every_field_is_on_the_page_and_no_link_leads_nowhere() -> None:
    rows = re.findall(r"<th scope='row'><code>([^<]+)</code>", PAGE)
    assert len(rows) == sum(len(schema["properties"]) for schema in SCHEMAS.values())
    places = re.findall(r" id='([^']+)'", PAGE)
    assert len(places) == len(set(places)) and set(re.findall(r"href='#([^']+)'", PAGE)) <= set(places)
    assert "$ref" not in PAGE and "anyOf" not in PAGE and "overflow-wrap" not in PAGE and "<script" not in PAGE
    assert len(PAGE) < 80_000
    for path, methods in DESCRIPTION["paths"].items():
        assert all(operation["summary"] != path for operation in methods.values()), path
    user = PAGE.split("<h3 id='UserTurn'>")[1].split("<h3")[0]
    assert "<code>content</code><br>required</th><td>text or list of <a href='#TextPart'>TextPart</a>" in user


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "minLength": 1, "maxLength": 1024}, "text of 1 to 1,024 characters"),
        ({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 20}, {"type": "null"}]},
         "whole number from 0 to 20 or null"),
        ({"type": "array", "items": {"oneOf": [{"$ref": "#/x/A"}, {"$ref": "#/x/B"}]}, "minItems": 1},
         "list (at least 1) of (A or B)"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "object whose values are each true or false"),
        ({"enum": ["a", "b"], "type": "string"}, '"a" or "b"'),
        ({"const": False, "type": "boolean"}, "false"),
        ({"type": "string", "pattern": "^<a>$"}, "text of the form ^<a>$"),
        ({}, "anything"),
    ],
)  # fmt: skip
def test_a_type_in_words(schema: dict[str, Any], words: str) -> None:
    assert html.unescape(re.sub(r"</?(?:code|a)\b[^>]*>", "", kind(schema))) == words
