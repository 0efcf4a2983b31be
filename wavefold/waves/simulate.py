"""How long a schedule takes, before it runs: the same steps against clocks instead of machines.

Each rank computes one wave at a time; each has one link out and one in, shared by dispatch and combine, on which
messages go one after another in the order in which they were posted. With equal ranks, T_K, T_D and T_C the seconds of
all computing, dispatching and combining, N waves in a ring that does not hold them up:

    naive     T_D + T_K + T_C
    waves     about max(T_K + (T_D + T_C) / N, T_D + T_C)
    bound     max(T_K, T_D + T_C), a speed-up of (1 + rho) / max(1, rho) with rho = (T_D + T_C) / T_K

Waves shrink what is not hidden at the ends; they do not change rho. Report section 3.1.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wavefold.waves.schedule import Step, Waves
from wavefold.waves.timeline import Span

ENOUGH = 1.005
"""Within half a percent of the best, fewer waves are better."""


@dataclass(frozen=True)
class Load:
    """What a layer asks of ranks, by wave: seconds of computing, and bytes between ranks.

    compute[wave][rank], dispatch[wave][source][target], combine[wave][source][target]; the last from the rank that has
    the experts to the one that asked.
    """

    compute: Sequence[Sequence[float]]
    dispatch: Sequence[Sequence[Sequence[float]]]
    combine: Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Link:
    """Each rank's link: bytes a second one way, seconds that a message takes beside its bytes; computing is that much
    slower while it is in use (`contention`, 0.1: a tenth)."""

    bytes_per_s: float
    latency_s: float = 0.0
    contention: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or self.latency_s < 0 or self.contention < 0:
            raise ValueError(f"{self} is not allowed; expected a positive rate, and no negative latency or contention")


@dataclass(frozen=True)
class Outcome:
    """`seconds` until the last rank is through, and what was done when."""

    seconds: float
    spans: tuple[Span, ...]


Key = tuple[str, int, int, int]
"""(kind, wave, source, target)."""


def simulate(waves: Waves, load: Load, link: Link, steps: Sequence[Step] | None = None) -> Outcome:
    """Run a schedule, or other `steps` of its waves, against clocks."""
    return _Run(waves, load, link, list(waves.steps()) if steps is None else list(steps)).run()


def naive_steps() -> list[Step]:
    """One wave, and nothing is posted before what it follows is done: dispatch, compute, combine."""
    return [
        *(Step(action, 0, "dispatch") for action in ("expect", "send", "wait")),  # type: ignore[arg-type]
        Step("compute", 0),
        *(Step(action, 0, "combine") for action in ("expect", "send", "wait")),  # type: ignore[arg-type]
    ]


class _Run:
    def __init__(self, waves: Waves, load: Load, link: Link, steps: list[Step]):
        self.waves, self.load, self.link, self.steps = waves, load, link, steps
        self.ranks = range(waves.num_ranks)
        self.at = [0] * waves.num_ranks
        self.clock = [0.0] * waves.num_ranks
        self.busy = [0.0] * waves.num_ranks
        """Until when each computes."""
        self.arrived: dict[Key, float] = {}
        self.queues: list[deque[tuple[Key, float]]] = [deque() for _ in self.ranks]
        self.out, self.into = [0.0] * waves.num_ranks, [0.0] * waves.num_ranks
        self.spans: list[Span] = []
        self.events: list[tuple[float, int, str, int]] = []
        self.number = 0

    def run(self) -> Outcome:
        for rank in self.ranks:
            self._at(0.0, "go", rank)
        while self.events:
            now, _, event, rank = heapq.heappop(self.events)
            if event == "go":
                self._go(rank, now)
            else:
                self._transfer(rank, now)
        assert all(at == len(self.steps) for at in self.at), "ranks wait for each other"
        return Outcome(max(self.clock), tuple(self.spans))

    def _at(self, when: float, event: str, rank: int) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, event, rank))

    def _messages(self, step: Step, rank: int, outgoing: bool) -> list[tuple[Key, float]]:
        table = self.load.dispatch if step.kind == "dispatch" else self.load.combine
        pairs = [(rank, other) if outgoing else (other, rank) for other in self.ranks if other != rank]
        return [
            ((str(step.kind), step.wave, *pair), size) for pair in pairs if (size := table[step.wave][pair[0]][pair[1]])
        ]

    def _go(self, rank: int, now: float) -> None:
        """Take a rank's steps until it has to wait for a message or for its own computing."""
        if now < self.busy[rank]:  # a message came while it computes
            return
        self.clock[rank] = now
        while self.at[rank] < len(self.steps):
            step = self.steps[self.at[rank]]
            if step.action == "send":
                self.queues[rank] += self._messages(step, rank, True)
                self._at(self.clock[rank], "transfer", rank)
            elif step.action == "wait":
                if any(self.arrived.get(key, math.inf) > now for key, _ in self._messages(step, rank, False)):
                    return  # it goes on when they come
            elif step.action == "compute":
                self.at[rank] += 1
                seconds = self._stretched(self.load.compute[step.wave][rank], rank, now)
                self.spans.append(Span(rank, "compute", step.wave, now, now + seconds))
                self.busy[rank] = now + seconds
                self._at(now + seconds, "go", rank)
                return
            self.at[rank] += 1

    def _stretched(self, seconds: float, rank: int, now: float) -> float:
        """Computing beside a busy link: of what is known now, messages that wait or are on their way."""
        waiting = sum(size for _, size in self.queues[rank]) / self.link.bytes_per_s
        busy = max(0.0, self.out[rank] - now) + waiting
        return seconds + self.link.contention * min(seconds, busy)

    def _transfer(self, rank: int, now: float) -> None:
        """Start the next message of a rank's link, if link and receiver are free."""
        if not self.queues[rank]:
            return
        (key, size), target = self.queues[rank][0], self.queues[rank][0][0][3]
        free = max(self.out[rank], self.into[target])
        if free > now:
            self._at(free, "transfer", rank)
            return
        self.queues[rank].popleft()
        end = now + size / self.link.bytes_per_s
        self.out[rank] = self.into[target] = end
        self.arrived[key] = end + self.link.latency_s
        self.spans.append(Span(rank, key[0], key[1], now, end))
        self._at(end, "transfer", rank)
        self._at(self.arrived[key], "go", target)


def even_load(
    waves: Waves, compute_s: float, dispatch_bytes: float, combine_bytes: float, overhead_s: float = 0.0
) -> Load:
    """Equal ranks: T_K seconds each, so many bytes that each sends to all others together, and the seconds that a wave
    costs however small it is."""
    num, others = waves.num_waves, max(1, waves.num_ranks - 1)

    def table(size: float) -> list[list[list[float]]]:
        share = size / num / others
        ranks = range(waves.num_ranks)
        return [[[0.0 if a == b else share for b in ranks] for a in ranks] for _ in range(num)]

    return Load([[compute_s / num + overhead_s] * waves.num_ranks] * num, table(dispatch_bytes), table(combine_bytes))


def best_waves(
    waves: Waves, compute_s: float, dispatch_bytes: float, combine_bytes: float, link: Link, overhead_s: float = 0.0,
    counts: Sequence[int] = (),
) -> tuple[Waves, dict[int, float]]:  # fmt: skip
    """The fewest waves whose predicted time is within 0.5 % of the best, and the seconds of each count tried."""
    tried = [n for n in (counts or range(1, waves.most_waves + 1)) if n <= waves.most_waves]
    seconds = {}
    for num in tried:
        candidate = replace(waves, num_waves=num, ring=0)
        seconds[num] = simulate(
            candidate, even_load(candidate, compute_s, dispatch_bytes, combine_bytes, overhead_s), link
        ).seconds
    return replace(waves, num_waves=fewest_enough(seconds), ring=0), seconds


def fewest_enough(seconds: Mapping[int, float]) -> int:
    """Of some numbers the smallest whose seconds are within half a percent of the best."""
    best = min(seconds.values())
    return min(number for number, candidate in seconds.items() if candidate <= ENOUGH * best)
