"""JSON schemas before a grammar is made of them: what would be left out, misread or never end is refused by name.

Schemas are read as draft 2020-12 says, whatever their `$schema`. Each rule here stands for something that llguidance
1.9.1 takes without a word and does not hold an answer to, or that takes it seconds.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import unquote

from wavefold.engine.patterns import problem_of_pattern

Schema = Mapping[str, Any]
Holds = Literal["schema", "list", "map", ""]
_IN: dict[Holds, str] = {
    "schema": """additionalProperties items not if then else contains propertyNames unevaluatedItems
        unevaluatedProperties contentSchema""",
    "list": "allOf anyOf oneOf prefixItems",
    "map": "properties patternProperties $defs definitions dependentSchemas",
    "": """$schema $id $ref $anchor $comment $vocabulary $dynamicRef $dynamicAnchor $recursiveRef $recursiveAnchor
        type const enum format pattern minLength maxLength contentEncoding contentMediaType
        minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
        minItems maxItems uniqueItems minContains maxContains
        required minProperties maxProperties dependentRequired dependencies
        default examples example title description deprecated readOnly writeOnly discriminator externalDocs xml""",
}
KEYWORDS: dict[str, Holds] = {keyword: holds for holds, keywords in _IN.items() for keyword in keywords.split()}
"""Keywords of the draft, with some that only describe, and how schemas lie in the value of each. llguidance refuses
those that it does not support."""
EXACT = 1 << 53
"""Integers up to here are floats too, as which llguidance reads all numbers."""
MOST_STEPS = 10_000
"""Of a multipleOf, in units of its last digit: a state of an automaton each."""
MOST_LEAST_ITEMS = 1000
"""Of a minItems: a mask takes 5 us for each."""
MOST_COMBINATIONS = 256
"""Of an allOf's unions with each other, which are multiplied out."""


def problem_of_schema(schema: Schema) -> str:
    """Returns what is wrong with a schema, with the place of it, or an empty text."""
    if "x-guidance" in schema:
        return "x-guidance changes how answers are written, which is not left to a schema"
    for path, part in parts_of(schema):
        for rule in (_unknown, _older, _rounded, _costly, _repeated_keys, _pattern):
            if said := rule(part):
                return f"{path}: {said}"
    if not _Endings(schema).ends("#", ""):
        return "no text satisfies it: a value would have to hold another of its own kind without end"
    return ""


def parts_of(schema: object, path: str = "#") -> Iterator[tuple[str, Schema]]:
    """The schema and all schemas in it, each with its JSON pointer."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword, value in schema.items():
        place, holds = f"{path}/{keyword}", KEYWORDS.get(keyword, "")
        if holds == "schema":
            yield from parts_of(value, place)
        elif holds == "list" and isinstance(value, list):
            for number, part in enumerate(value):
                yield from parts_of(part, f"{place}/{number}")
        elif holds == "map" and isinstance(value, Mapping):
            for name, part in value.items():
                yield from parts_of(part, f"{place}/{_escaped(name)}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


# -- rules: each returns what is wrong with one schema, without those in it --------------------------------------------


def _unknown(schema: Schema) -> str:
    for keyword in schema:
        if keyword not in KEYWORDS and not keyword.startswith("x-"):
            near = difflib.get_close_matches(keyword, KEYWORDS, 1)
            means = f"; did you mean {near[0]!r}?" if near else ""
            return f"keyword {keyword!r} is not one of draft 2020-12{means}"
    return ""


def _older(schema: Schema) -> str:
    if isinstance(schema.get("items"), list):
        return "items as a list is an older draft's; expected prefixItems, and items for the rest"
    for keyword in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(schema.get(keyword), bool):
            return f"{keyword} as a boolean is an older draft's; expected the bound"
    return ""


def _rounded(schema: Schema) -> str:
    """Integers that a float does not hold."""
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "const", "enum")
    for keyword in bounds:
        for value in _scalars(schema.get(keyword)):
            if type(value) is int and abs(value) > EXACT:
                return f"{keyword} {value} is not allowed; expected integers of at most 2^53"
            if type(value) is float and not math.isfinite(value):
                return f"{keyword} {value} is not allowed; expected finite numbers"
    return ""


def _scalars(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _scalars(part)
    elif isinstance(value, list):
        for part in value:
            yield from _scalars(part)
    else:
        yield value


def _costly(schema: Schema) -> str:
    step = _number(schema, "multipleOf")
    digits = f"{step:.15f}".rstrip("0").replace(".", "").lstrip("0")
    if len(digits) > 4 and int(digits) > MOST_STEPS:
        return f"multipleOf {step} is not allowed; expected at most {MOST_STEPS:,} in units of its last digit"
    if (least := _number(schema, "minItems")) > MOST_LEAST_ITEMS:
        return f"minItems {least} is not allowed; expected at most {MOST_LEAST_ITEMS:,}"
    unions = [
        len(part[name]) for part in _listed(schema, "allOf") for name in ("anyOf", "oneOf") if _listed(part, name)
    ]
    if math.prod(unions) > MOST_COMBINATIONS:
        return f"allOf of unions with {math.prod(unions):,} combinations is not allowed; expected {MOST_COMBINATIONS}"
    return ""


def _listed(schema: object, keyword: str) -> list[Any]:
    value = schema.get(keyword) if isinstance(schema, Mapping) else None
    return value if isinstance(value, list) else []


# What of a schema is of another type than it should be counts for nothing: llguidance refuses it.


def _number(schema: Schema, keyword: str) -> int | float:
    value = schema.get(keyword)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return value if is_number else 0  # type: ignore[return-value]


def _names(schema: Schema, keyword: str) -> list[str]:
    return [name for name in _listed(schema, keyword) if isinstance(name, str)]


def _repeated_keys(schema: Schema) -> str:
    """Keys that no name holds may be written twice, and a reader keeps one of them."""
    if (least := _number(schema, "minProperties")) > len(set(_names(schema, "required"))):
        return f"minProperties {least} is not allowed beyond those that are required: a key may be written twice"
    return ""


def _pattern(schema: Schema) -> str:
    names = schema.get("patternProperties")
    for keyword, pattern in (
        ("pattern", schema.get("pattern")),
        *(("patternProperties", name) for name in (names if isinstance(names, Mapping) else ())),
    ):
        if isinstance(pattern, str) and (said := problem_of_pattern(pattern)):
            return f"{keyword} {pattern!r}: {said}"
    return ""


# -- recursion ---------------------------------------------------------------------------------------------------------


class _Endings:
    """Which schemas some finite value may satisfy, as far as required members and items tell.

    A schema is taken to end unless it can be shown that it does not.
    """

    def __init__(self, root: Schema):
        self._schemas = dict(parts_of(root))
        self._ending: set[str] = set()
        self._askers: dict[str, list[str]] = {}
        """By schemas that were not known to end when they were asked about: who asked."""
        left = list(self._schemas)
        while left:
            path = left.pop()
            if path not in self._ending and self._may_end(path, self._schemas[path]):
                self._ending.add(path)
                left += self._askers.pop(path, ())

    def ends(self, path: str, asker: str) -> bool:
        """True unless the schema there is known, and needs one that does not end. Then `asker` is asked again later."""
        if path not in self._schemas or path in self._ending:
            return True
        self._askers.setdefault(path, []).append(asker)
        return False

    def _may_end(self, path: str, schema: Schema) -> bool:
        reference = schema.get("$ref")
        if isinstance(reference, str) and not self.ends(unquote(reference), path):
            return False
        for keyword in ("anyOf", "oneOf"):
            branches = _listed(schema, keyword)
            if branches and not any(self.ends(f"{path}/{keyword}/{number}", path) for number in range(len(branches))):
                return False
        if not all(self.ends(f"{path}/allOf/{number}", path) for number in range(len(_listed(schema, "allOf")))):
            return False
        kind = schema.get("type")
        kinds = [kind] if isinstance(kind, str) else _names(schema, "type")
        needs = {"object": self._members, "array": self._items}
        if "enum" in schema or "const" in schema or not kinds or not set(kinds) <= needs.keys():
            return True
        return any(all(self.ends(needed, path) for needed in needs[kind](path, schema)) for kind in kinds)

    def _members(self, path: str, schema: Schema) -> Iterator[str]:
        """The schemas that an object needs values of."""
        properties = schema.get("properties")
        for name in _names(schema, "required"):
            if isinstance(properties, Mapping) and name in properties:
                yield f"{path}/properties/{_escaped(name)}"
            elif not schema.get("patternProperties"):
                yield f"{path}/additionalProperties"

    def _items(self, path: str, schema: Schema) -> Iterator[str]:
        """The schemas that an array needs values of."""
        least, first = _number(schema, "minItems"), len(_listed(schema, "prefixItems"))
        for number in range(min(math.ceil(least), first)):
            yield f"{path}/prefixItems/{number}"
        if least > first:
            yield f"{path}/items"
