"""What an argument may be: a rule gives the value that is used, or an error of its name, its value and what is allowed.

whole(1, 128).used("n", 0)        ValueError: n = 0 is not allowed; expected a whole number from 1 to 128
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

LARGEST = 2**63 - 1
MOST_SHOWN = 200
"""Characters of a value in an error."""


@dataclass(frozen=True)
class Rule:
    """`read` returns the value that is used, or raises TypeError, ValueError or OverflowError. `expected`: in words.

    `takes_none`: None is allowed, and means `none`.
    """

    read: Callable[[Any], Any]
    expected: str
    takes_none: bool = False
    none: Any = None

    def or_none(self, none: Any = None) -> Rule:
        """Returns the rule that allows None too, which means `none`."""
        return replace(self, expected=f"{self.expected}, or None", takes_none=True, none=none)

    def used(self, name: str, value: object) -> Any:
        """Returns the value that is used for an argument. Raises ValueError for one that is not allowed."""
        if value is None and self.takes_none:
            return self.none
        try:
            return self.read(value)
        except (TypeError, ValueError, OverflowError):
            raise refused(name, value, self.expected) from None


def refused(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{name} = {shown(value)} is not allowed; expected {expected}")


def shown(value: object) -> str:
    """Returns a value in one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # a whole number of more than 4,300 digits, or whatever a class does
        text = f"<a value of type {type(value).__name__}>"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def as_whole(value: Any) -> int:
    """Returns a whole number of Python, numpy or torch. Raises TypeError for others, truth values among them."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError
    return operator.index(value)


def whole(least: int, most: int = LARGEST, note: str = "") -> Rule:
    """A whole number in a range, whose words `note` may explain."""

    def read(value: Any) -> int:
        return _fitting(as_whole(value), lambda number: least <= number <= most)

    return Rule(read, f"a whole number from {least}{note} to {'2^63 - 1' if most == LARGEST else f'{most:,}'}")


def number(expected: str, fits: Callable[[float], bool]) -> Rule:
    """A number of Python or numpy, as float. Truth values are none."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError
        return _fitting(float(value), fits)

    return Rule(read, f"a number {expected}")


def kind(types: type | tuple[type, ...], expected: str) -> Rule:
    """A value of some types, as it is."""
    return Rule(lambda value: _fitting(value, lambda value: isinstance(value, types)), expected)


def items_of(value: object) -> Iterator[Any]:
    """The items of a list, tuple, set or array. Raises TypeError for a text, bytes, a mapping and an iterator."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Collection):
        raise TypeError
    return iter(value.tolist() if hasattr(value, "tolist") else value)


def several(item: Rule, expected: str, least: int = 0, most: int = LARGEST) -> Rule:
    """Items that a rule allows, as a tuple: `least` to `most` of them. A set is put in order."""

    def read(value: Any) -> tuple[Any, ...]:
        items = tuple(item.read(one) for one in items_of(value))
        return _fitting(tuple(sorted(items)) if isinstance(value, Set) else items, lambda i: least <= len(i) <= most)

    return Rule(read, expected)


def by_key(key: Rule, value: Rule, expected: str) -> Rule:
    """A mapping of keys and values that rules allow, as a dict of its own."""

    def read(mapping: Any) -> dict[Any, Any]:
        if not isinstance(mapping, Mapping):
            raise TypeError
        return {key.read(name): value.read(one) for name, one in mapping.items()}

    return Rule(read, expected)


def _fitting(value: Any, fits: Callable[[Any], bool]) -> Any:
    if not fits(value):
        raise ValueError
    return value


FLAG = kind(bool, "True or False")


def text(least: int = 0, most: int = LARGEST) -> Rule:
    """A text of so many characters."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        return _fitting(value, lambda text: least <= len(text) <= most)  # type: ignore[no-any-return]

    return Rule(read, "a text")


TEXT = text()


def _called(value: Any) -> Any:
    return _fitting(value, callable)


PROGRESS = Rule(_called, "a function of two numbers, what is done and of how much").or_none(lambda done, of: None)
