"""Which model comes into memory next, and which leaves for it. Numbers alone: nothing is loaded here.

    wanted   by requests that wait, the oldest first     resident   in memory or on the way, each with its bytes
    moves    Leave: no new request gets it, and it is unloaded once nobody uses it       Load: with so many bytes

A model gets all of its bytes where it can, of what pinned ones and their adapters leave. For it those leave that nobody
uses, the least recently used first, each after it has been idle for a part of the time that its loading took: a request
that comes just after would load it again. Models in use leave for a request that has waited for `max_wait`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LINGER = 0.25
"""Of the seconds that loading took: so long a model that became idle is kept from leaving."""


@dataclass
class Resident:
    """A model in memory, or on its way there. `num_bytes`: its share, `adapter_bytes`: of its adapters beside it.

    `num_users`: requests that it answers. Times are of one clock.
    """

    name: str
    num_bytes: int
    num_users: int = 0
    last_used: float = 0.0
    load_seconds: float = 0.0
    is_pinned: bool = False
    is_coming: bool = False
    is_leaving: bool = False
    adapter_bytes: int = 0

    @property
    def all_bytes(self) -> int:
        return self.num_bytes + self.adapter_bytes


@dataclass(frozen=True)
class Wanted:
    """A model for which requests wait, the oldest since `since`. `whole`, `least`: bytes (`engine.budget.Needs`)."""

    name: str
    since: float
    whole: int
    least: int


@dataclass(frozen=True)
class Load:
    name: str
    num_bytes: int


@dataclass(frozen=True)
class Leave:
    name: str


@dataclass(frozen=True)
class TooLarge:
    """It cannot be loaded as long as what is pinned stays. `possible`: bytes that it could have."""

    name: str
    possible: int


Move = Load | Leave | TooLarge


def moves(
    resident: Sequence[Resident], wanted: Sequence[Wanted], total: int, now: float, max_wait: float, idle: float
) -> list[Move]:
    """Returns what is to be done now. `total`: bytes of all models together. Called again after each change.

    At most one model is loaded at a time, the disk's rate being what a load takes.
    """
    in_memory = {one.name for one in resident}
    found: list[Move] = []
    is_free = not any(one.is_coming for one in resident)
    for one in sorted(wanted, key=lambda one: one.since):
        if one.name in in_memory:  # it is leaving: it comes back once it has left
            continue
        possible = total - sum(other.num_bytes for other in resident if other.is_pinned)
        if possible < one.least:
            found.append(TooLarge(one.name, possible))
            continue
        now_possible = total - sum(other.all_bytes for other in resident if other.is_pinned)
        target = max(one.least, min(one.whole, now_possible))
        its = _for(one, resident, total, target, now, max_wait) if is_free else []
        found += its
        if its or (now - one.since >= max_wait and now_possible >= one.least):
            break  # others may come first as long as it is not overdue, and where it waits for a pinned one's adapters
    asked = {one.name for one in wanted}
    gone = {move.name for move in found if isinstance(move, Leave)}
    found += [Leave(one.name) for one in resident
              if is_idle(one) and now - one.last_used > idle and one.name not in asked | gone]  # fmt: skip
    return found


def _for(one: Wanted, resident: Sequence[Resident], total: int, target: int, now: float, max_wait: float) -> list[Move]:
    """Returns the moves that bring a model into memory, with `target` bytes."""
    free = total - sum(other.all_bytes for other in resident)
    if free >= target:
        return [Load(one.name, target)]
    free += sum(other.all_bytes for other in resident if other.is_leaving)
    is_overdue = now - one.since >= max_wait
    leaving: list[Move] = []
    for other in sorted(resident, key=lambda other: (other.num_users > 0, other.last_used)):
        if free >= target:
            break
        may_leave = is_overdue if other.num_users else now - other.last_used >= LINGER * other.load_seconds
        if other.is_pinned or other.is_coming or other.is_leaving or not (may_leave or is_overdue):
            continue
        leaving.append(Leave(other.name))
        free += other.all_bytes
    return leaving if free >= target else []


def first_to_leave(resident: Sequence[Resident], now: float) -> Resident | None:
    """Returns the one that nobody has used for longest; None where all are in use, were just now, or do not leave."""
    left_alone = [one for one in resident if is_idle(one) and now - one.last_used >= LINGER * one.load_seconds]
    return min(left_alone, key=lambda one: one.last_used, default=None)


def is_idle(one: Resident) -> bool:
    """True for a model that nobody uses, and that may leave."""
    return not (one.num_users or one.is_pinned or one.is_coming or one.is_leaving)


def next_look(
    resident: Sequence[Resident], wanted: Sequence[Wanted], now: float, max_wait: float, idle: float
) -> float:
    """Returns the seconds until time alone may change what `moves` returns."""
    times = [one.since + max_wait for one in wanted]
    times += [one.last_used + LINGER * one.load_seconds for one in resident if wanted and is_idle(one)]
    times += [one.last_used + idle for one in resident if is_idle(one)]
    return max(0.01, min((time - now for time in times if time > now), default=idle))
