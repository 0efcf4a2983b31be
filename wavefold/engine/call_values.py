"""Values of a tool's parameters as V4 writes them: texts as they are, all others in JSON. Each schema has two parts.

{"type": ["string", "null"], "maxLength": 5}  ->  texts of 5 characters at most, and {"type": ["null"], "maxLength": 5}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wavefold.engine.schemas import KEYWORDS, Schema, parts_of, problem_of_schema
from wavefold.engine.texts import MOST_REFERENCES, Text, referred, texts

OTHER_TYPES = ["object", "array", "number", "boolean", "null"]
SAY_TYPES = ("type", "const", "enum", "$ref", "anyOf", "oneOf", "allOf")


class Values(NamedTuple):
    """`text`: what a text may be, None: no text. `schema`: what another value may be, None: no other."""

    text: Text | None
    schema: Schema | None


def values_of(schema: Any, root: Schema) -> Values:
    """Returns the two parts of a parameter's schema. `root`: the tool's parameters, of its references.

    Raises ValueError, which names the keyword, for what an answer cannot be held to.
    """
    text = texts(schema, root)
    other = schema if text is None else _without_texts(schema, root)
    if other is False or other is None:
        return Values(text, None)
    other = _document(other, root)
    if problem := problem_of_schema(other):
        raise ValueError(problem)
    return Values(text, other)


def _without_texts(schema: Any, root: Schema, depth: int = 0) -> Schema | None:
    """Returns a schema of the values that are no texts, or None where there are none. References become schemas."""
    if schema is False:
        return None
    if schema is True:
        return {"type": OTHER_TYPES}
    if depth > MOST_REFERENCES:
        raise ValueError("a value that refers to itself is not held; expected a union or reference that ends")
    others = dict(schema)
    if "type" in schema:
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        others["type"] = [kind for kind in kinds if kind != "string"]
        if not others["type"]:
            return None
    if "enum" in schema:
        others["enum"] = [value for value in schema["enum"] if not isinstance(value, str)]
    if others.get("enum") == [] or isinstance(schema.get("const"), str):
        return None
    conjuncts = list(schema.get("allOf", ()))
    if "$ref" in others:
        conjuncts.append(referred(others.pop("$ref"), root))
    if conjuncts:
        parts = [_without_texts(part, root, depth + 1) for part in conjuncts]
        if None in parts:
            return None
        others["allOf"] = parts
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            branches = [_without_texts(part, root, depth + 1) for part in schema[keyword]]
            others[keyword] = [branch for branch in branches if branch is not None]
            if not others[keyword]:
                return None
    return others if set(SAY_TYPES) & others.keys() else {**others, "type": OTHER_TYPES}


def _document(schema: Schema, root: Schema) -> Schema:
    """Returns a schema that stands alone: its references lead into a copy of `root`."""
    references = [part["$ref"] for _, part in parts_of(schema) if "$ref" in part]
    for reference in references:
        referred(reference, root)
    return {**_moved(schema), "$defs": {"parameters": _moved(root)}} if references else schema


def _moved(schema: Any) -> Any:
    """Returns a schema whose references begin at the copy."""
    if not isinstance(schema, Mapping):
        return schema
    moved = {keyword: _LIE[KEYWORDS.get(keyword, "")](value) for keyword, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        moved["$ref"] = f"#/$defs/parameters{reference[1:]}"
    return moved


_LIE: Mapping[str, Callable[[Any], Any]] = {
    "schema": _moved,
    "list": lambda parts: [_moved(part) for part in parts] if isinstance(parts, list) else parts,
    "map": lambda parts: {name: _moved(part) for name, part in parts.items()} if isinstance(parts, Mapping) else parts,
    "": lambda value: value,
}
"""How schemas lie in the value of a keyword."""
