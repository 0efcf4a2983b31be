"""Three small tasks with judges that were written elsewhere: what an adapter of a small model can be good at.

    name    question -> answer                              made by             judged by
    cron    English -> five fields                          cron-descriptor     croniter
    dates   a written date -> YYYY-MM-DD                    templates           dateparser
    units   a quantity -> the same in SI                    templates           pint

`--data specialist:NAME` trains on one. The packages come with `pip install 'wavefold[specialists]'`.
"""

from __future__ import annotations

from wavefold.data.specialists import cron, dates, units
from wavefold.data.specialists.case import Case, Specialist

PREFIX = "specialist:"
SPECIALISTS: dict[str, Specialist] = {one.name: one for one in (cron.Cron(), dates.Dates(), units.Units())}
TRAINING_CASES, HELD_OUT_CASES = 60_000, 1_000


def specialist(name: str) -> Specialist:
    """Returns the specialist of this name. Raises ValueError for another name."""
    if name not in SPECIALISTS:
        raise ValueError(f"specialist {name!r} is not known; expected one of {', '.join(SPECIALISTS)}")
    return SPECIALISTS[name]


__all__ = ["HELD_OUT_CASES", "PREFIX", "SPECIALISTS", "TRAINING_CASES", "Case", "Specialist", "specialist"]
