"""Texts that a JSON schema allows as they are, without quotes and escapes: an expression of a grammar in Lark.

{"type": "string", "pattern": "^a", "maxLength": 5}  ->  /(?:a)(?s:.*)/ & /(?s:.{0,5})/

A keyword that these expressions do not hold is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from wavefold.engine.patterns import whole_pattern
from wavefold.engine.schemas import Schema

_DAY = (
    "[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_CLOCK = r"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]))"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
FORMATS = {
    "date": _DAY,
    "time": _CLOCK,
    "date-time": f"{_DAY}T{_CLOCK}",
    "email": f"[a-zA-Z0-9_+-]{{1,32}}(?:\\.[a-zA-Z0-9_+-]{{1,16}}){{0,1}}@{_LABEL}(?:\\.{_LABEL}){{1,3}}",
    "hostname": f"{_LABEL}(?:\\.{_LABEL}){{0,3}}",
    "ipv4": f"{_BYTE}(?:\\.{_BYTE}){{3}}",
    "uuid": "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": f"[a-z][a-z0-9+.-]{{0,15}}://{_LABEL}(?:\\.{_LABEL}){{0,3}}(?::[0-9]{{1,4}})?(?:/[a-zA-Z0-9._~-]*)*"
    "(?:\\?[a-zA-Z0-9._~=-]*)?",
}
"""The usual part of each format: an answer has no 29th of February, for one."""
NOT_HELD = ("not", "if", "then", "else", "$dynamicRef", "$recursiveRef")
TYPES: Mapping[str, type] = {
    "enum": list, "anyOf": list, "oneOf": list, "allOf": list, "pattern": str, "format": str, "minLength": int,
    "maxLength": int,
}  # fmt: skip
MOST_REFERENCES = 32
"""Of references and unions in each other, until a schema counts as one that refers to itself."""


class Text(NamedTuple):
    """Texts of `least` to `most` characters (None: any number) that have each of `forms`, expressions in Lark."""

    least: int = 0
    most: int | None = None
    forms: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """True if a longer text is always allowed too."""
        return self.most is None and not self.forms

    @property
    def num_demands(self) -> int:
        """Forms, and one for the length where it is limited. One alone is always satisfied by some text."""
        return len(self.forms) + ((self.least, self.most) != (0, None))

    def expression(self, more: int = 0) -> str:
        """Returns the expression. `more`: characters that are counted beside it."""
        if self.forms and (self.least, self.most) == (0, None):
            return " & ".join(self.forms)
        most = "" if self.most is None else self.most + more
        return " & ".join([*self.forms, f"/(?s:.{{{self.least + more},{most}}})/"])


def texts(schema: Any, root: Schema, depth: int = 0) -> Text | None:
    """Returns the texts that a schema allows, or None where it allows none. `root`: of its references.

    Raises ValueError, which names the keyword, for what is not held.
    """
    if schema is True or schema is False:
        return Text() if schema else None
    if not isinstance(schema, Mapping):
        raise ValueError(f"{schema!r} is no schema")
    kind = schema.get("type", "string")
    if "string" not in ([kind] if isinstance(kind, str) else kind):
        return None
    if depth > MOST_REFERENCES:
        raise ValueError("a text that refers to itself is not held; expected a union or reference that ends")
    for keyword, value in schema.items():
        if keyword in NOT_HELD:
            raise ValueError(f"{keyword} of a text is not held")
        if keyword in TYPES and (type(value) is not TYPES[keyword] or (type(value) is int and value < 0)):
            raise ValueError(f"{keyword} {value!r} is not allowed; expected a value as draft 2020-12 says")
    parts: list[Text | None] = [_values(schema), *_of_others(schema, root, depth)]
    allowed = [part for part in parts if part is not None]
    if len(allowed) < len(parts):
        return None
    here = Text(schema.get("minLength", 0), schema.get("maxLength"), tuple(_forms(schema)))
    return _both([here, *allowed])


def _values(schema: Schema) -> Text | None:
    """The texts of `const` and `enum`."""
    values = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
    if "const" in schema and "enum" in schema:
        raise ValueError("enum beside const is not held")
    if not {"const", "enum"} & schema.keys():
        return Text()
    words = dict.fromkeys(value for value in values if isinstance(value, str))
    return Text(forms=(_either([literal(word) for word in words]),)) if words else None


def _of_others(schema: Schema, root: Schema, depth: int) -> list[Text | None]:
    """The texts that the schemas allow which must hold too."""
    found: list[Text | None] = []
    if "$ref" in schema:
        found.append(texts(referred(schema["$ref"], root), root, depth + 1))
    found += [texts(part, root, depth + 1) for part in schema.get("allOf", ())]
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            branches = [texts(part, root, depth + 1) for part in schema[keyword]]
            allowed = [branch for branch in branches if branch is not None]
            if keyword == "oneOf" and len(allowed) > 1:
                raise ValueError("oneOf with several branches of texts is not held; expected anyOf")
            if Text() in allowed or not allowed:
                found.append(Text() if allowed else None)
            else:
                found.append(Text(forms=(_either([f"({branch.expression()})" for branch in allowed]),)))
    return found


def _forms(schema: Schema) -> list[str]:
    forms = []
    if "pattern" in schema:
        forms.append(_regex(whole_pattern(schema["pattern"])))
    if (name := schema.get("format")) is not None:
        if name not in FORMATS:
            raise ValueError(f"format {name!r} of a text is not held; expected one of {', '.join(FORMATS)}")
        forms.append(_regex(FORMATS[name]))
    return forms


def _both(parts: Sequence[Text]) -> Text:
    mosts = [part.most for part in parts if part.most is not None]
    forms = dict.fromkeys(form for part in parts for form in part.forms)
    return Text(max(part.least for part in parts), min(mosts, default=None), tuple(forms))


def _either(expressions: Sequence[str]) -> str:
    return f"({' | '.join(expressions)})"


def literal(text: str) -> str:
    """Returns a text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _regex(expression: str) -> str:
    """Returns a regular expression between Lark's slashes."""
    out, at = [], 0
    while at < len(expression):
        here = expression[at]
        if here == "\\":
            out.append(expression[at : at + 2])
            at += 2
            continue
        out.append({"/": "\\/", "\n": "\\n", "\r": "\\r"}.get(here, here))
        at += 1
    return f"/{''.join(out)}/"


def referred(reference: object, root: Schema) -> Any:
    """Returns the schema that a reference names. Raises ValueError for one outside, and for one that names nothing."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ValueError(f"$ref {reference!r} is not held; expected '#/...', a place in the tool's parameters")
    found: Any = root
    for name in unquote(reference).split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise ValueError(f"$ref {reference!r} names nothing in the tool's parameters")
    return found
