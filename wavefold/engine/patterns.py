"""Regular expressions of JSON schemas: what ECMAScript's syntax means, and Rust's, in which they are read, does not."""

from __future__ import annotations

SHARED_ESCAPES = frozenset("dDwWsSbBfnrtvxupP0k")
"""Letters and digits after a backslash that both know; look-around and back references are refused when one is read."""
OF_SETS = ("&&", "--", "~~")


def problem_of_pattern(pattern: str) -> str:
    """Returns what of a pattern would be taken otherwise than its author meant, or an empty text."""
    in_class, start, at = False, 0, 0
    while at < len(pattern):
        here, two = pattern[at], pattern[at : at + 2]
        if here == "\\":
            escaped = pattern[at + 1 : at + 2]
            if escaped.isalnum() and escaped not in SHARED_ESCAPES:
                return f"\\{escaped} is not allowed; expected one of ECMAScript's escapes without c and back references"
            if escaped in ("x", "u") and pattern[at + 2 : at + 3] == "{":
                return f"\\{escaped}{{ is not allowed; expected \\xHH or \\uHHHH"
            at += 2
            continue
        if in_class:
            if here == "[":
                return "[ inside a class is not allowed; expected \\["
            if two in OF_SETS:
                return f"{two} inside a class is not allowed; expected a backslash before each"
            if here == "]" and pattern[start:at] in ("[", "[^"):
                return "an empty class is not allowed; expected \\] for the character"
            in_class = here != "]"
        elif here == "[":
            in_class, start = True, at
        elif two == "(?" and pattern[at + 2 : at + 3] not in (":", "=", "!", "<"):
            return f"{pattern[at : at + 3]} is not allowed; expected (?: or a named group"
        at += 1
    return ""


ANYTHING = "(?s:.*)"


def whole_pattern(pattern: str) -> str:
    """Returns an expression that matches a whole text where a pattern is found in it.

    Raises ValueError for ^ and $ elsewhere than at the ends of the pattern or of its alternatives.
    """
    return "|".join(_whole(branch, pattern) for branch in _alternatives(pattern))


def _alternatives(pattern: str) -> list[str]:
    """Splits at each | that stands in no group and no class."""
    branches, depth, in_class, start, at = [], 0, False, 0, 0
    while at < len(pattern):
        here = pattern[at]
        if here == "\\":
            at += 1
        elif in_class or here == "[":
            in_class = here != "]"
        elif here in "()":
            depth += 1 if here == "(" else -1
        elif here == "|" and not depth:
            branches.append(pattern[start:at])
            start = at + 1
        at += 1
    return [*branches, pattern[start:]]


def _whole(branch: str, pattern: str) -> str:
    body = branch[branch.startswith("^") :]
    ends = body.endswith("$") and (len(body) - len(body[:-1].rstrip("\\"))) % 2 == 1
    body = body[: len(body) - ends]
    in_class, at = False, 0
    while at < len(body):
        here = body[at]
        if here == "\\":
            if body[at + 1 : at + 2] in ("b", "B") and not in_class:
                raise ValueError(f"pattern {pattern!r}: \\{body[at + 1]} of a text is not held")
            at += 1
        elif in_class or here == "[":
            in_class = here != "]"
        elif here in "^$":
            raise ValueError(f"pattern {pattern!r}: {here} amid a pattern of a text is not held")
        at += 1
    return f"{'' if branch.startswith('^') else ANYTHING}(?:{body}){'' if ends else ANYTHING}"
