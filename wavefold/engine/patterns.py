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
