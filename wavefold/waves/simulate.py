"""Predicts how long a schedule takes: the same actions, run against clocks instead of machines.

Each rank computes one wave at a time; each has one link out and one in, shared by dispatch and combine, on which
messages go one after another in the order of posting. For equal ranks, T_K, T_D and T_C are the seconds of all
computing, dispatching and combining. With N waves in a ring that does not hold them up:

    naive     T_D + T_K + T_C
    waves     about max(T_K + (T_D + T_C) / N, T_D + T_C)
    bound     max(T_K, T_D + T_C), a speed-up of (1 + rho) / max(1, rho) with rho = (T_D + T_C) / T_K

More waves shrink the unhidden time at both ends; they do not change rho. Report section 3.1.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wavefold.waves.schedule import Action, Waves
from wavefold.waves.timeline import Span

ENOUGH = 1.005
"""Fewer waves are preferred if their time is within half a percent of the best."""


@dataclass(frozen=True)
class Load:
    """The work of a layer, by wave: seconds of computing, and bytes between ranks.

    compute[wave][rank], dispatch[wave][source][target], combine[wave][source][target]. The source of a combine is the
    rank that has the experts.
    """

    compute: Sequence[Sequence[float]]
    dispatch: Sequence[Sequence[Sequence[float]]]
    combine: Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Link:
    """The link of each rank: bytes per second one way, and seconds that a message takes beside its bytes.

    `contention`: computing is slower by this share while the link is in use (0.1: a tenth).
    """

    bytes_per_s: float
    latency_s: float = 0.0
    contention: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or self.latency_s < 0 or self.contention < 0:
            raise ValueError(f"{self} is not allowed; expected a positive rate, and no negative latency or contention")


@dataclass(frozen=True)
class Outcome:
    """`seconds` until the last rank has finished, and the timeline."""

    seconds: float
    spans: tuple[Span, ...]


Key = tuple[str, int, int, int]
"""(kind, wave, source, target)."""


def simulate(waves: Waves, load: Load, link: Link, actions: Sequence[Action] | None = None) -> Outcome:
    """Runs a schedule against clocks. `actions`: another order of the actions of its waves."""
    return _Run(waves, load, link, list(waves.actions()) if actions is None else list(actions)).run()


def naive_actions() -> list[Action]:
    """Returns the actions of one wave without overlap: dispatch, then compute, then combine."""
    return [
        *(Action(verb, 0, "dispatch") for verb in ("expect", "send", "wait")),  # type: ignore[arg-type]
        Action("compute", 0),
        *(Action(verb, 0, "combine") for verb in ("expect", "send", "wait")),  # type: ignore[arg-type]
    ]


class _Run:
    def __init__(self, waves: Waves, load: Load, link: Link, actions: list[Action]):
        self.waves, self.load, self.link, self.actions = waves, load, link, actions
        self.ranks = range(waves.num_ranks)
        self.at = [0] * waves.num_ranks
        self.clock = [0.0] * waves.num_ranks
        self.busy = [0.0] * waves.num_ranks
        """Time at which the computation of each rank ends."""
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
        assert all(at == len(self.actions) for at in self.at), "ranks wait for each other"
        return Outcome(max(self.clock), tuple(self.spans))

    def _at(self, when: float, event: str, rank: int) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, event, rank))

    def _messages(self, action: Action, rank: int, outgoing: bool) -> list[tuple[Key, float]]:
        table = self.load.dispatch if action.kind == "dispatch" else self.load.combine
        pairs = [(rank, other) if outgoing else (other, rank) for other in self.ranks if other != rank]
        sizes = [(pair, table[action.wave][pair[0]][pair[1]]) for pair in pairs]
        return [((str(action.kind), action.wave, *pair), size) for pair, size in sizes if size]

    def _go(self, rank: int, now: float) -> None:
        """Takes the actions of a rank until it has to wait for a message or for its computation."""
        if now < self.busy[rank]:  # a message came during a computation
            return
        self.clock[rank] = now
        while self.at[rank] < len(self.actions):
            action = self.actions[self.at[rank]]
            if action.verb == "send":
                self.queues[rank] += self._messages(action, rank, True)
                self._at(self.clock[rank], "transfer", rank)
            elif action.verb == "wait":
                if any(self.arrived.get(key, math.inf) > now for key, _ in self._messages(action, rank, False)):
                    return  # goes on when they arrive
            elif action.verb == "compute":
                self.at[rank] += 1
                seconds = self._stretched(self.load.compute[action.wave][rank], rank, now)
                self.spans.append(Span(rank, "compute", action.wave, now, now + seconds))
                self.busy[rank] = now + seconds
                self._at(now + seconds, "go", rank)
                return
            self.at[rank] += 1

    def _stretched(self, seconds: float, rank: int, now: float) -> float:
        """Returns the seconds of a computation beside a busy link, by the messages that are queued or under way now."""
        waiting = sum(size for _, size in self.queues[rank]) / self.link.bytes_per_s
        busy = max(0.0, self.out[rank] - now) + waiting
        return seconds + self.link.contention * min(seconds, busy)

    def _transfer(self, rank: int, now: float) -> None:
        """Starts the next message of the link of `rank` if link and receiver are free."""
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
    """Returns the load of equal ranks.

    compute_s: T_K. dispatch_bytes, combine_bytes: bytes that a rank sends to all others together. overhead_s: fixed
    seconds of a wave.
    """
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
    """Returns the fewest waves whose predicted time is within 0.5 % of the best, and the seconds of each count."""
    tried = [n for n in (counts or range(1, waves.most_waves + 1)) if n <= waves.most_waves]
    seconds = {}
    for num in tried:
        candidate = replace(waves, num_waves=num, ring=0)
        seconds[num] = simulate(
            candidate, even_load(candidate, compute_s, dispatch_bytes, combine_bytes, overhead_s), link
        ).seconds
    return replace(waves, num_waves=fewest_enough(seconds), ring=0), seconds


def fewest_enough(seconds: Mapping[int, float]) -> int:
    """Returns the smallest number whose seconds are within half a percent of the best."""
    best = min(seconds.values())
    return min(number for number, candidate in seconds.items() if candidate <= ENOUGH * best)
