"""`--set KEY=VALUE`: recipe values, parsed by the type of their field. Nothing is guessed or executed.

    int        1000, 1_000, 1e3, 1000.0     an integer in any of these forms; 2.5 is an error
    float      0.1, 1e-3, 2                 finite
    bool       true, false                  True and False too
    word       fp4, 'fp4'                   one of the field's words
    stages     ((0,512),(1000,1024))        (first step, tokens); square brackets too

A key may occur twice. The last value wins, so a flag at the end of a command line overrides earlier ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wavefold.train.recipe import KINDS, Recipe, allowed_words, shown

MAX_CHARACTERS = 10_000
"""Longest value that is read, in characters."""

NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*")
STAGE = r"\(([+-]?[0-9]+),([+-]?[0-9]+),?\)"
STAGES = re.compile(rf"\((?:{STAGE},)*{STAGE},?\)")
MAX_DIGITS = 40


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Returns `recipe` with the values of `settings`, in the form KEY=VALUE. The last of equal keys wins.

    Raises ValueError, with key and value, for an unknown key, a value of another type, and a forbidden value.
    """
    return replace(recipe, **dict(map(parse_setting, settings)))


def parse_setting(setting: str) -> tuple[str, Any]:
    """Returns (key, value) of KEY=VALUE, with the type of the field. Raises ValueError for anything else."""
    key, equals, text = setting.partition("=")
    key = key.strip()
    if not equals:
        raise ValueError(f"--set {shown(setting)} is not allowed; expected KEY=VALUE")
    if key not in KINDS:
        raise ValueError(
            f"recipe key {shown(key)} is not known; expected one of {', '.join(sorted(KINDS))} (--set {shown(setting)})"
        )
    text = text.strip()
    value = _parsed(KINDS[key], key, text) if len(text) <= MAX_CHARACTERS else None
    if value is None:
        raise ValueError(f"{key} = {shown(text)} is not allowed; expected {_expected(KINDS[key], key)}")
    return key, value


def _parsed(kind: str, key: str, text: str) -> Any:
    """Returns the value, or None if the text is not of this kind."""
    if kind == "int":
        return _integer(text)
    if kind == "float":
        value = _number(text)
        return value if value is not None and math.isfinite(value) else None
    if kind == "bool":
        return {"true": True, "True": True, "false": False, "False": False}.get(text)
    if kind == "word":
        word = text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
        return word if word in allowed_words(key) else None
    return _stages(text)


def _number(text: str) -> float | None:
    if len(text) > MAX_DIGITS or not NUMBER.fullmatch(text) or not re.match(r"[+-]?\.?[0-9]", text):
        return None
    return float(text)


def _integer(text: str) -> int | None:
    if len(text) <= MAX_DIGITS and INTEGER.fullmatch(text):
        return int(text)
    value = _number(text)
    return int(value) if value is not None and math.isfinite(value) and value == int(value) else None


def _stages(text: str) -> tuple[tuple[int, int], ...] | None:
    plain = re.sub(r"[ \t\r\n]", "", text).replace("[", "(").replace("]", ")")
    if not STAGES.fullmatch(plain):
        return None
    stages = re.findall(STAGE, plain)
    if max(len(number) for stage in stages for number in stage) > MAX_DIGITS:
        return None
    return tuple((int(first), int(tokens)) for first, tokens in stages)


def _expected(kind: str, key: str) -> str:
    if kind == "word":
        return " or ".join(map(repr, allowed_words(key)))
    return {
        "int": "an integer",
        "float": "a finite number",
        "bool": "true or false",
        "stages": "((0, tokens), (first step, tokens), ...) of integers",
    }[kind]
