"""Written dates to ISO 8601: `dateparser` reads the question, and an answer is right if it is that day.

    Wednesday the 5th of May, 2021  -->  2021-05-05

A template is a form; a value is a day from 1950 to 2049. Days and months as numbers, day first, have days above 12
alone, since others are ambiguous. Relative forms ("next Friday") are left out: with a fixed day of reference there are
only some hundred of them, and without one they have no answer.
"""

from __future__ import annotations

import functools
import random
import re
from datetime import date, datetime, timedelta
from typing import Any

from wavefold.data.specialists.case import Case, Specialist, missing

TEMPLATES = (
    "{D} {M} {Y}", "{D} {M}, {Y}", "{D} {m} {Y}", "{D} {U} {Y}", "{D} {l} {Y}", "{D}. {M} {Y}",
    "{M} {D}, {Y}", "{M} {D} {Y}", "{m} {D}, {Y}", "{m} {D} {Y}", "{U} {D}, {Y}", "{l} {D}, {Y}", "{m}. {D}, {Y}",
    "{O} {M} {Y}", "{O} {m} {Y}", "{O} of {M} {Y}", "{O} of {M}, {Y}", "the {O} of {M} {Y}", "the {O} of {M}, {Y}",
    "{M} {O}, {Y}", "{M} {O} {Y}", "{m} {O}, {Y}", "{M} the {O}, {Y}", "{D} of {M} {Y}", "{O} day of {M} {Y}",
    "{W}, {M} {D}, {Y}", "{W} {D} {M} {Y}", "{W}, {D} {M} {Y}", "{W}, {O} of {M} {Y}", "{W} the {O} of {M} {Y}",
    "{w} {D} {m} {Y}", "{w}, {D} {m} {Y}", "{w} {m} {D} {Y}", "{w}, {m} {D}, {Y}", "{w} {O} {M} {Y}",
    "{Y} {M} {D}", "{Y}, {M} {D}", "{Y}-{m}-{DD}", "{Y}/{m}/{D}", "{Y} {D} {M}",
    "{D}-{m}-{Y}", "{D}/{m}/{Y}", "{DD}{m}{Y}", "{m}-{D}-{Y}",
    "{DD}/{NN}/{Y}", "{DD}-{NN}-{Y}", "{D}.{N}.{Y}",
    "on {M} {D}, {Y}", "on {D} {M} {Y}", "on the {O} of {M} {Y}", "{D} {M} {Y} at {time}", "{M} {D}, {Y}, {time}",
    "{M} {D}, {Y} at {time}", "{O} {M} {Y} at {time}", "{D} {m} {Y}, {time}",
    "{Y}-{m}-{DD} {time}", "{m} {D} {Y} {time}",
)  # fmt: skip
"""D, DD: day (two digits); O: ordinal; M, m: month (short); U: short in capitals; l: in small letters; N, NN: as a
number; Y: year; W, w: day of the week (short)."""
NUMERIC = re.compile(r"\{NN?\}")
SHORT_MONTH = re.compile(r"\{[mU]\}")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
ISO = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
SETTINGS = {"DATE_ORDER": "DMY", "RELATIVE_BASE": datetime(2024, 5, 15), "TIMEZONE": "UTC",
            "REQUIRE_PARTS": ["day", "month", "year"]}  # fmt: skip
"""dateparser's. `REQUIRE_PARTS`: a text without one of these is no date, rather than a guess."""


class Dates(Specialist):
    name = "dates"
    template_share = 8

    def draft(self, dice: random.Random) -> tuple[str, str]:
        while True:
            template = dice.choice(TEMPLATES)
            day = FIRST + timedelta(dice.randrange((LAST - FIRST).days + 1))
            is_ambiguous = NUMERIC.search(template) and day.day <= 12
            is_other_form = SHORT_MONTH.search(template) and day.month == 5  # May has no short form
            if not is_ambiguous and not is_other_form:
                return template, day.isoformat()

    def write(self, template: str, value: str, dice: random.Random) -> Case:
        time = f"{dice.randint(10, 23)}:{dice.randint(10, 59)}"
        text = template.format(**_parts(date.fromisoformat(value)), time=time)
        return Case(text, value, template, value, text)

    def judge(self, case: Case, answer: str) -> bool:
        answer = answer.strip()
        if not ISO.fullmatch(answer):
            return False
        found = _parser().get_date_data(case.source).date_obj
        return found is not None and found.date().isoformat() == answer


def _parts(day: date) -> dict[str, object]:
    """Returns what a template may name."""
    month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    return {
        "D": day.day, "DD": f"{day.day:02}", "O": _ordinal(day.day), "M": month, "m": month[:3], "U": month[:3].upper(),
        "l": month.lower(), "N": day.month, "NN": f"{day.month:02}", "Y": day.year, "W": weekday, "w": weekday[:3],
    }  # fmt: skip


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


@functools.cache
def _parser() -> Any:
    """Returns dateparser's parser of English with the fixed settings."""
    try:
        from dateparser.date import DateDataParser
    except ImportError:
        raise missing("dates", "dateparser") from None
    return DateDataParser(languages=["en"], settings=SETTINGS)
