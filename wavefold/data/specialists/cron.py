"""English to cron expressions: the English is `cron-descriptor`'s, and `croniter` says which expressions are the same.

    At 09:30 AM, Monday through Friday  -->  30 9 * * 1-5

A template is the kinds of the five fields ("fixed fixed star star range"), in all phrasings. A value is an expression.
Left out, since their English or their times are not clear: steps that do not divide the hour or the day; both a day of
the month and a day of the week, either of which is enough; days that a month may lack.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from datetime import datetime

from wavefold.data.specialists.case import Case, Specialist, missing

DAYS_28 = 28
TIMES = (
    ("fixed", "fixed"), ("fixed", "fixed"), ("fixed", "list"), ("fixed", "star"), ("fixed", "step"), ("fixed", "range"),
    ("star", "star"), ("star", "fixed"), ("star", "range"), ("step", "star"), ("step", "fixed"), ("step", "range"),
    ("list", "star"), ("list", "fixed"), ("list", "step"), ("list", "range"), ("range", "star"), ("range", "fixed"),
    ("range", "step"),
)  # fmt: skip
"""Kinds of minute and hour."""
DAYS = (
    ("star", "star"), ("star", "star"), ("star", "star"), ("star", "fixed"), ("star", "range"), ("star", "list"),
    ("fixed", "star"), ("list", "star"), ("range", "star"),
)  # fmt: skip
"""Kinds of day of the month and day of the week."""
MONTHS = ("star", "star", "star", "fixed", "range", "list")
STEPS = {"minute": (2, 3, 4, 5, 6, 10, 12, 15, 20, 30), "hour": (2, 3, 4, 6, 8, 12)}
LIMITS = {"minute": (0, 59), "hour": (0, 23), "day": (1, DAYS_28), "month": (1, 12), "weekday": (0, 6)}

FIELD = re.compile(r"(?:\*|\?|\d{1,2}|[A-Za-z]{3}|[lL]|[-/,#])+", re.ASCII)
NAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
EVERY = ("*", "?")
STARTS = (datetime(2024, 1, 1), datetime(2027, 6, 15))
DAYS_COMPARED = 500
"""Days on which both expressions fire, from each start."""


class Cron(Specialist):
    name = "cron"
    template_share = 8

    def draft(self, dice: random.Random) -> tuple[str, str]:
        (minute, hour), (day, weekday), month = dice.choice(TIMES), dice.choice(DAYS), dice.choice(MONTHS)
        kinds = {"minute": minute, "hour": hour, "day": day, "month": month, "weekday": weekday}
        return " ".join(kinds.values()), " ".join(_field(name, kind, dice) for name, kind in kinds.items())

    def write(self, template: str, value: str, dice: random.Random) -> Case:
        small = dice.random() < 0.3
        describe = _describer(small, verbose=dice.random() < 0.25, hours_24=dice.random() < 0.5)
        return Case(describe(value), value, template, value, value)

    def judge(self, case: Case, answer: str) -> bool:
        croniter = _croniter()
        try:
            found, expected = (_normal(croniter, text) for text in (answer, case.source))
            if found[:2] != expected[:2]:
                return False
            return found == expected or _same_days(croniter, found[2], expected[2])
        except (ValueError, KeyError):  # croniter's errors are ValueErrors
            return False


def _field(name: str, kind: str, dice: random.Random) -> str:
    """Returns one field of an expression."""
    first, last = LIMITS[name]
    if kind == "star":
        return "*"
    if kind == "step":
        return f"*/{dice.choice(STEPS[name])}"
    if kind == "fixed":
        return str(
            dice.choice((0, 0, 30, 15, 45)) if name == "minute" and dice.random() < 0.3 else dice.randint(first, last)
        )
    if kind == "range":
        low = dice.randint(first, last - 1)
        return f"{low}-{dice.randint(low + 1, last if low > first else last - 1)}"
    count = dice.choice((2, 2, 3))
    values = dice.sample(range(first, last + 1), count)
    return ",".join(map(str, sorted(values)))


@functools.cache
def _describer(small: bool, verbose: bool, hours_24: bool) -> Callable[[str], str]:
    """Returns cron-descriptor in one of its phrasings. The locale of the machine plays no part.

    A descriptor reads its translations from a file, so that one serves all expressions.
    """
    try:
        from cron_descriptor import CasingTypeEnum, ExpressionDescriptor, Options
        from cron_descriptor.ExpressionParser import ExpressionParser
    except ImportError:
        raise missing("cron", "cron-descriptor") from None
    casing = CasingTypeEnum.LowerCase if small else CasingTypeEnum.Sentence
    options = Options(casing, verbose=verbose, use_24hour_time_format=hours_24, locale_code="en_US")
    descriptor = ExpressionDescriptor("* * * * *", options)

    def describe(expression: str) -> str:
        descriptor._expression_parts = ExpressionParser(expression, options).parse()
        return str(descriptor.get_description())

    return describe


def _croniter():  # type: ignore[no-untyped-def]  # the class has no types
    try:
        from croniter import croniter
    except ImportError:
        raise missing("cron", "croniter") from None
    return croniter


def _normal(croniter, text: str) -> tuple[frozenset[int], frozenset[int], tuple[str, str, str]]:  # type: ignore
    """Returns minutes, hours and the three fields of days, as croniter reads them: "*" where all values are meant.

    Raises ValueError for what is no expression of five fields. Seconds, years and random fields, which croniter reads
    too, are refused.
    """
    fields = text.split()
    if not (len(fields) == 1 and fields[0] in NAMES) and not (len(fields) == 5 and all(map(FIELD.fullmatch, fields))):
        raise ValueError(f"{text!r} is no expression of five fields")
    expanded = croniter.expand(" ".join(fields))[0]
    minutes, hours = (
        frozenset(range(size) if values == ["*"] else values)
        for values, size in zip(expanded[:2], (60, 24), strict=True)
    )
    days = tuple(",".join(map(str, values)) for values in expanded[2:])
    if len(fields) == 5 and (
        any(letter in field for field in fields[2:] for letter in "lL#")
        or (fields[2] not in EVERY and fields[4] not in EVERY)  # either is enough, also where one is 1-31: not "*"
    ):
        days = tuple(fields[2:])
    return minutes, hours, days  # type: ignore[return-value]


def _same_days(croniter, one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:  # type: ignore
    """True if both fire on the same days, `DAYS_COMPARED` of them from each start. Raises ValueError for none."""
    for start in STARTS:
        first, second = (croniter(" ".join(("0 0", *days)), start) for days in (one, other))
        if any(first.get_next(float) != second.get_next(float) for _ in range(DAYS_COMPARED)):
            return False
    return True
