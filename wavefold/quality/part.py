"""A part of the card: units of work, each of which is kept when it is done, and the figures of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from wavefold.quality.statistics import Figure
from wavefold.quality.subject import Subject

Result = dict[str, Any]
"""Of a unit, in JSON."""


class Unit(NamedTuple):
    """`key`: a name within its part. `prompt`, `decode`: tokens that are read, and that are chosen, about."""

    key: str
    prompt: int
    decode: int
    data: Any


class Part(ABC):
    """One part of the card. `name` is a word; units are the same for the same settings and texts."""

    name: str

    @abstractmethod
    def units(self) -> list[Unit]:
        """Returns all units in the order in which they are measured."""

    @abstractmethod
    def measure(self, subject: Subject, unit: Unit) -> Result:
        """Returns a unit's result."""

    @abstractmethod
    def figures(self, results: Sequence[Result]) -> list[Figure]:
        """Returns the figures of all units' results, in their order."""

    def problem(self, subject: Subject) -> str:
        """Returns why a model cannot be measured here, or an empty text."""
        return ""


def present(figures: Sequence[Figure | None]) -> list[Figure]:
    """Returns the figures that there are."""
    return [figure for figure in figures if figure is not None]
