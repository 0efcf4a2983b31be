"""Quantities with units to SI: `pint` reads the quantity and the answer, which has to be within 1% of it in an SI unit.

    3.5 miles  -->  5.63e3 m

A template is a phrase; a value is a quantity, a number with a unit in whatever spelling. The sizes are what a model of
14 million parameters can learn: numbers have one or two significant digits from 0.1 to 990, answers three and an
exponent, so that a unit is a table of 90 entries and a place of the point. Nine factors need such a table (an hour and
a kilowatt hour share theirs), 13 units move the point alone. A value that is never trained may have been seen with its
point elsewhere. Temperatures are left out: 1% of a temperature in kelvin is no answer.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Any, NamedTuple

from wavefold.data.specialists.case import Case, Specialist, missing

TOLERANCE = 0.01
"""Of an answer, relative. Three digits round by at most 0.5%."""


class Unit(NamedTuple):
    """`factor`: of the SI unit `si`, which is `spelled` in words. `one`, `many`, `symbols`: as pint reads them."""

    one: str
    many: str
    symbols: tuple[str, ...]
    factor: float
    si: str
    spelled: str


TABLES = (
    Unit("inch", "inches", ("in",), 0.0254, "m", "meters"),
    Unit("foot", "feet", ("ft",), 0.3048, "m", "meters"),
    Unit("mile", "miles", ("mi",), 1609.344, "m", "meters"),
    Unit("pound", "pounds", ("lb", "lbs"), 0.45359237, "kg", "kilograms"),
    Unit("minute", "minutes", ("min",), 60.0, "s", "seconds"),
    Unit("hour", "hours", ("h",), 3600.0, "s", "seconds"),
    Unit("kilowatt hour", "kilowatt hours", ("kWh",), 3.6e6, "J", "joules"),
    Unit("kilometer per hour", "kilometers per hour", ("km/h",), 1 / 3.6, "m/s", "meters per second"),
    Unit("mile per hour", "miles per hour", ("mph",), 0.44704, "m/s", "meters per second"),
    Unit("gallon", "gallons", ("gal",), 0.003785411784, "m^3", "cubic meters"),
)
"""Units whose factors need a table."""
POINTS = (
    Unit("kilometer", "kilometers", ("km",), 1e3, "m", "meters"),
    Unit("centimeter", "centimeters", ("cm",), 1e-2, "m", "meters"),
    Unit("millimeter", "millimeters", ("mm",), 1e-3, "m", "meters"),
    Unit("gram", "grams", ("g",), 1e-3, "kg", "kilograms"),
    Unit("milligram", "milligrams", ("mg",), 1e-6, "kg", "kilograms"),
    Unit("tonne", "tonnes", ("t",), 1e3, "kg", "kilograms"),
    Unit("millisecond", "milliseconds", ("ms",), 1e-3, "s", "seconds"),
    Unit("kilojoule", "kilojoules", ("kJ",), 1e3, "J", "joules"),
    Unit("bar", "bars", ("bar",), 1e5, "Pa", "pascals"),
    Unit("kilopascal", "kilopascals", ("kPa",), 1e3, "Pa", "pascals"),
    Unit("kilowatt", "kilowatts", ("kW",), 1e3, "W", "watts"),
    Unit("liter", "liters", ("L",), 1e-3, "m^3", "cubic meters"),
    Unit("milliliter", "milliliters", ("mL",), 1e-6, "m^3", "cubic meters"),
)
"""Units whose factors are powers of ten."""
UNITS = {unit.one: unit for unit in (*TABLES, *POINTS)}
TABLE_DRAWS = 3
"""Units with a table are drawn so often for one draw of another."""
TEMPLATES = (
    "{q}", "{q}?", "{q} in SI", "{q} in SI units", "{q} to SI", "{q} -> SI", "{q} to {si}", "{q} in {si}",
    "{q} -> {si}", "{q} = ? {si}", "{q} in {spelled}", "{q} to {spelled}", "convert {q}", "Convert {q} to SI.",
    "Convert {q} to {si}.", "Convert {q} to {spelled}.", "Please convert {q} to SI units.", "What is {q} in SI units?",
    "What is {q} in {si}?", "What is {q} in {spelled}?", "How much is {q} in SI?", "How much is {q} in {spelled}?",
    "How many {spelled} is {q}?", "How many {spelled} are in {q}?", "Express {q} in {si}.", "Express {q} in SI units.",
    "Write {q} in {spelled}.", "Turn {q} into {si}.", "SI value of {q}", "SI: {q}",
)  # fmt: skip
NUMBER = r"[+-]?\d{1,12}(?:\.\d{1,12})?(?:[eE][+-]?\d{1,2})?"
FACTOR = r"[A-Za-z]{1,16}(?:\^-?[1-4]|[²³])?"
ANSWER = re.compile(rf"({NUMBER}) ?({FACTOR}(?:[ */]{FACTOR}){{0,4}})", re.ASCII)
"""pint computes whatever a text says, powers of powers too: nothing else reaches it."""


class Units(Specialist):
    name = "units"
    template_share = 8

    def draft(self, dice: random.Random) -> tuple[str, str]:
        unit = dice.choice(TABLES if dice.randrange(TABLE_DRAWS + 1) else POINTS)
        number = _number(dice.randint(10, 99), dice.randrange(-2, 2))
        return dice.choice(TEMPLATES), f"{number} {unit.one}"

    def write(self, template: str, value: str, dice: random.Random) -> Case:
        number, _, one = value.partition(" ")
        unit = UNITS[one]
        words = unit.one if number == "1" else unit.many
        quantity = f"{number} {dice.choice((words, words, *unit.symbols))}"
        question = template.format(q=quantity, si=unit.si, spelled=unit.spelled)
        mantissa, exponent = f"{float(number) * unit.factor:.2e}".split("e")
        return Case(question, f"{mantissa}e{int(exponent)} {unit.si}", template, value, quantity)

    def judge(self, case: Case, answer: str) -> bool:
        read = ANSWER.fullmatch(answer.strip())
        if read is None:
            return False
        registry, errors = _pint()
        expected = registry.parse_expression(case.source).to_base_units()
        try:
            unit = registry.Quantity(1.0, registry.parse_units(read[2]))
            if unit.dimensionality != expected.dimensionality or abs(unit.to_base_units().magnitude - 1) > 1e-9:
                return False
        except errors:
            return False
        return bool(abs(float(read[1]) - expected.magnitude) <= TOLERANCE * abs(expected.magnitude))


def _number(digits: int, power: int) -> str:
    """Returns digits times 10^power as people write it: 35 and -1 are 3.5, 40 and -1 are 4."""
    return f"{digits * 10**power}" if power >= 0 else f"{digits / 10**-power:.{-power}f}".rstrip("0").rstrip(".")


@functools.cache
def _pint() -> tuple[Any, tuple[type[Exception], ...]]:
    """Returns pint's registry, and what it raises for a text that names no unit."""
    try:
        import pint
    except ImportError:
        raise missing("units", "pint") from None
    return pint.UnitRegistry(), (pint.PintError, AttributeError, TypeError, ValueError)
