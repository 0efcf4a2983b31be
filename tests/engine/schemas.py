"""Three hundred JSON schemas that use every keyword that answers can be held to, forty of them recursive or unions.

Each leaf stands alone and in four places: in an array, in an object, beside null, and behind a reference.
"""

from __future__ import annotations

from collections.abc import Mapping

Schema = Mapping[str, object]

STRINGS: list[Schema] = [
    {"type": "string", "maxLength": 8}, {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-z]{3}$"}, {"type": "string", "pattern": "^(yes|no|maybe)$"},
    {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"}, {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "format": "date"}, {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"}, {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"}, {"type": "string", "enum": ["red", "green", 'a "quoted" one', "ä\n"]},
    {"const": "only this"}, {"enum": ["a", 1, None, True, [1, 2], {"b": "c"}]},
]  # fmt: skip
NUMBERS: list[Schema] = [
    {"type": "integer", "minimum": 0, "maximum": 9}, {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 10, "exclusiveMaximum": 100}, {"type": "integer", "multipleOf": 5,
    "minimum": 0, "maximum": 100}, {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -2.5, "maximum": 2.5}, {"type": "integer", "minimum": 1000, "maximum": 1003},
    {"const": 3.5}, {"enum": [1, 2, 3]}, {"type": "boolean"}, {"type": "null"}, {"const": False},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 20}, {"type": ["boolean", "null"]},
]  # fmt: skip
ARRAYS: list[Schema] = [
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x", "y"]}], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "maxItems": 3},
    {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2}, "maxItems": 2},
    {"type": "array", "maxItems": 0},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 3, "maxItems": 3},
]
OBJECTS: list[Schema] = [
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["a"],
     "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}, "required": ["a", "b"],
     "additionalProperties": False},
    {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "additionalProperties": False},
    {"type": "object", "properties": {"outer": {"type": "object", "properties": {"inner": {"type": "boolean"}},
     "required": ["inner"], "additionalProperties": False}}, "required": ["outer"], "additionalProperties": False},
    {"type": "object", "properties": {"ä": {"const": 1}, 'q"': {"const": 2}}, "required": ["ä", 'q"'],
     "additionalProperties": False},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "boolean"}}, "additionalProperties": False,
     "maxProperties": 2},
    {"type": "object", "properties": {"k": {"type": "boolean"}}, "required": ["k"],
     "additionalProperties": {"type": "null"}, "maxProperties": 2},
]  # fmt: skip
UNIONS: list[Schema] = [
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"anyOf": [{"const": "a"}, {"const": "b"}, {"type": "null"}]},
    {"anyOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"enum": [1, 2]}},
         "required": ["kind", "r"], "additionalProperties": False},
        {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"enum": [3]}},
         "required": ["kind", "side"], "additionalProperties": False},
    ]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 4}, {"type": "string", "maxLength": 2}]},
    {"allOf": [{"type": "integer", "minimum": 0}, {"maximum": 7}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
               {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False}]},
    {"anyOf": [{"type": "array", "items": {"type": "boolean"}, "maxItems": 2}, {"type": "boolean"}]},
]  # fmt: skip
RECURSIVE: list[Schema] = [
    {"$ref": "#/$defs/list", "$defs": {"list": {"anyOf": [{"type": "null"}, {
        "type": "object", "properties": {"head": {"type": "boolean"}, "tail": {"$ref": "#/$defs/list"}},
        "required": ["head", "tail"], "additionalProperties": False}]}}},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object", "properties": {"v": {"enum": [0, 1]}, "kids": {"type": "array",
        "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}, "required": ["v", "kids"],
        "additionalProperties": False}}},
    {"$ref": "#/$defs/sum", "$defs": {"sum": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {
        "type": "array", "prefixItems": [{"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/sum"}], "items": False,
        "minItems": 2}]}}},
    {"$ref": "#/$defs/even", "$defs": {
        "even": {"anyOf": [{"type": "null"}, {"type": "array", "prefixItems": [{"$ref": "#/$defs/odd"}],
                 "items": False, "minItems": 1}]},
        "odd": {"type": "array", "prefixItems": [{"$ref": "#/$defs/even"}], "items": False, "minItems": 1}}},
    {"anyOf": [{"$ref": "#/$defs/flag"}, {"$ref": "#/$defs/pair"}], "$defs": {
        "flag": {"type": "boolean"},
        "pair": {"type": "object", "properties": {"l": {"$ref": "#/$defs/flag"}, "r": {"$ref": "#"}},
                 "required": ["l", "r"], "additionalProperties": False}}},
    {"type": "object", "properties": {"name": {"enum": ["a", "b"]}, "next": {"anyOf": [{"$ref": "#"},
     {"type": "null"}]}}, "required": ["name", "next"], "additionalProperties": False},
    {"definitions": {"n": {"type": "integer", "minimum": 0, "maximum": 3}}, "type": "array",
     "items": {"$ref": "#/definitions/n"}, "minItems": 1, "maxItems": 3},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"type": "boolean"}}},
]  # fmt: skip


def _moved(schema: object, to: str) -> object:
    """The schema with its references to its own root and definitions under another path."""
    if isinstance(schema, list):
        return [_moved(part, to) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"{to}{value[1:]}" if key == "$ref" and isinstance(value, str) else _moved(value, to)
        for key, value in schema.items()
    }


def _places(schema: Schema) -> list[Schema]:
    array = {"type": "array", "items": _moved(schema, "#/items"), "minItems": 1, "maxItems": 2}
    member = {
        "type": "object", "properties": {"it": _moved(schema, "#/properties/it"), "ok": {"type": "boolean"}},
        "required": ["it", "ok"], "additionalProperties": False,
    }  # fmt: skip
    optional = {"anyOf": [_moved(schema, "#/anyOf/0"), {"type": "null"}]}
    behind = {"$ref": "#/$defs/it", "$defs": {"it": _moved(schema, "#/$defs/it")}}
    return [schema, array, member, optional, behind]


LEAVES = [*STRINGS, *NUMBERS, *ARRAYS, *OBJECTS, *UNIONS, *RECURSIVE]
SCHEMAS = [place for leaf in LEAVES for place in _places(leaf)]

LARGE: list[Schema] = [
    {"anyOf": [{"type": "object", "properties": {f"k{n}": {"type": "null"}}, "required": [f"k{n}"],
                "additionalProperties": False} for n in range(2100)]},
    {"type": "object", "properties": {f"k{n}": {"type": "null"} for n in range(600)}, "required": ["k0"],
     "additionalProperties": False},
    {"type": "array", "items": {"type": "null"}, "minItems": 300, "maxItems": 301},
    {"$ref": "#/$defs/d6", "$defs": {"d0": {"type": "null"}, **{
        f"d{n}": {"type": "array", "items": False, "minItems": 2, "prefixItems": [{"$ref": f"#/$defs/d{n - 1}"}] * 2}
        for n in range(1, 7)}}},
]  # fmt: skip
"""Schemas whose parsers have thousands of alternatives at a place."""

REFUSED: list[tuple[Schema, str]] = [
    ({"type": "array", "uniqueItems": True}, "uniqueItems"), ({"not": {"type": "string"}}, "not"),
    ({"if": {"type": "string"}, "then": {"maxLength": 2}}, "if"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "array", "contains": {"type": "null"}}, "contains"),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, "propertyNames"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"type": "string", "format": "a-new-format"}, "a-new-format"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "nsatisfiable"), ({"enum": []}, "nsatisfiable"),
    (False, "no value satisfies it"), ({"$ref": "#"}, "no text satisfies it"),
    ({"$ref": "#/$defs/missing"}, "missing"), ({"type": "strin"}, "strin"),
    # what llguidance takes without a word
    ({"x-guidance": {"whitespace_pattern": "x"}}, "x-guidance"),
    ({"type": "string", "minLenght": 5}, "did you mean 'minLength'"), ({"maxlength": 5}, "maxlength"),
    ({"type": "integer", "divisibleBy": 3}, "divisibleBy"), ({"Required": ["a"]}, "did you mean 'required'"),
    ({"properties": {"a": {"anyOf": [{"typ": "null"}]}}}, "#/properties/a/anyOf/0: keyword 'typ'"),
    ({"type": "array", "prefixItems": [{}], "additionalItems": False}, "additionalItems"),
    ({"type": "array", "items": [{}, {}]}, "expected prefixItems"),
    ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, "exclusiveMinimum as a boolean"),
    ({"const": 2**53 + 1}, "const 9007199254740993"), ({"enum": ["a", [{"b": -(2**60)}]]}, "enum -1152921504606846976"),
    ({"maximum": 10**30}, "expected integers of at most 2^53"), ({"const": float("inf")}, "expected finite numbers"),
    ({"type": "object", "minProperties": 1}, "minProperties 1"),
    ({"type": "object", "required": ["a", "a"], "minProperties": 2}, "a key may be written twice"),
    ({"type": "integer", "multipleOf": 99991}, "multipleOf 99991"), ({"multipleOf": 0.12345}, "multipleOf 0.12345"),
    ({"type": "array", "minItems": 1001}, "minItems 1001"),
    ({"allOf": [{"anyOf": [{"minimum": n} for n in range(17)]}] * 2}, "289 combinations"),
    ({"type": "string", "pattern": "^[^a&&b]$"}, "&& inside a class"), ({"pattern": "[a--b]"}, "-- inside a class"),
    ({"patternProperties": {"[[:alpha:]]": {}}}, "[ inside a class"), ({"pattern": "a[]b]"}, "an empty class"),
    ({"pattern": r"\Aa"}, r"\A is not allowed"), ({"pattern": r"a\z"}, r"\z is not allowed"),
    ({"pattern": "(?U)a"}, "(?U"),
    ({"pattern": r"\u{41}"}, r"\u{ is not allowed"), ({"pattern": r"(a)\1"}, r"\1"),
    # what is of another type than it should be
    ({"type": {"a": 1}}, "type must be a string"), ({"type": "array", "minItems": "3"}, "minItems"),
    ({"type": "object", "required": [["a"]]}, "required"), ({"type": "object", "properties": ["a"]}, "properties"),
    # values without end
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "without end"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "without end"),
    ({"$ref": "#/$defs/a", "$defs": {
        "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
        "b": {"anyOf": [
            {"type": "array", "prefixItems": [{"$ref": "#/$defs/a"}], "minItems": 1}, {"$ref": "#/$defs/a"}]},
    }}, "without end"),
    ({"type": "object", "required": ["x"], "additionalProperties": {"$ref": "#"}}, "without end"),
]  # type: ignore[list-item]  # fmt: skip
"""Schemas that nobody can be held to here, each with a word that its refusal names."""
