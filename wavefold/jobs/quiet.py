"""Quiet hours: the part of a day, in local time, in which a batch may run."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

DAY = 24 * 60


class QuietHours(NamedTuple):
    """From `begin` until before `end`, in minutes of the day. An end before the begin is on the next day."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """Reads "22:00-07:00". Raises ValueError."""
        found = re.fullmatch(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})", text.strip())
        numbers = [int(digits) for digits in found.groups()] if found else [99]
        is_time = found and numbers[0] < 24 and numbers[1] < 60 and numbers[2] <= 24 and numbers[3] < 60
        hours = cls(numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]) if is_time else cls(0, 0)
        if hours.begin == hours.end or hours.end > DAY:
            raise ValueError(
                f"quiet hours {text[:40]!r} are not allowed; expected two different times of the day, as 22:00-07:00"
            )
        return hours

    def __str__(self) -> str:
        return f"{self.begin // 60:02}:{self.begin % 60:02}-{self.end // 60:02}:{self.end % 60:02}"

    def allow(self, minute: int) -> bool:
        """True if this minute of the day is one of them."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def minute_of(seconds: float) -> int:
    """Returns the minute of the day, in local time, of a time since the epoch."""
    local = time.localtime(seconds)
    return local.tm_hour * 60 + local.tm_min
