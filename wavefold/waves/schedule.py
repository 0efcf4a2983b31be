"""The schedule of a layer's experts over ranks, in waves: one object that runs, prints, draws and is simulated.

    wave w      the w-th slice of every rank's experts; its compute begins when all its tokens are there
    dispatch    token rows to the ranks that have their experts
    combine     results of the experts, back to the ranks that asked

    rank 0   D0 D1 | K0  K1  K2  K3 |           while wave w computes, the tokens of w + 1 arrive and the
    link     D0 D1 D2 C0 D3 C1 C2 C3            results of w - 1 leave

Waves change the time of a computation, never its inputs: an expert sees all its rows at once, by rank and token.
Report section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["dispatch", "combine"]
Verb = Literal["expect", "send", "wait", "compute"]


@dataclass(frozen=True)
class Action:
    """One thing that a rank does. `kind` is None for "compute"."""

    verb: Verb
    wave: int
    kind: Kind | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.kind} {self.wave}" if self.kind else f"{self.verb} {self.wave}"


@dataclass(frozen=True)
class Waves:
    """`num_experts` routed experts over `num_ranks` ranks, in `num_waves` waves on each rank.

    `ring`: largest number of waves whose tokens are under way or waiting: the number of buffers. With a ring of one,
    the tokens of a wave never travel while another wave computes.
    """

    num_experts: int
    num_ranks: int = 1
    num_waves: int = 1
    ring: int = 0
    """0: as many buffers as waves."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_ranks <= self.num_experts:
            raise ValueError(f"{self.num_ranks} ranks is not allowed; expected 1 to {self.num_experts}, the experts")
        if not 1 <= self.num_waves <= self.most_waves:
            raise ValueError(
                f"{self.num_waves} waves is not allowed; expected 1 to {self.most_waves}, the experts of a rank"
            )
        if not 0 <= self.ring <= self.num_waves:
            raise ValueError(
                f"a ring of {self.ring} is not allowed; expected 1 to {self.num_waves}, the waves (0: as many)"
            )

    @property
    def most_waves(self) -> int:
        """Largest number of waves: the smallest number of experts of a rank, since more waves would be empty there."""
        return self.num_experts // self.num_ranks

    @property
    def depth(self) -> int:
        """Number of waves in the ring."""
        return self.ring or self.num_waves

    def experts_of(self, rank: int) -> range:
        """Returns the experts of a rank: consecutive numbers. Ranks differ by at most one expert."""
        return _share(range(self.num_experts), rank, self.num_ranks)

    def experts(self, rank: int, wave: int) -> range:
        """Returns the experts of a rank in one wave."""
        return _share(self.experts_of(rank), wave, self.num_waves)

    def rank_of(self, expert: int) -> int:
        """Returns the rank of an expert."""
        return _share_of(expert, self.num_experts, self.num_ranks)

    def wave_of(self, expert: int) -> int:
        """Returns the wave of an expert."""
        local = self.experts_of(self.rank_of(expert))
        return _share_of(expert - local.start, len(local), self.num_waves)

    def actions(self) -> Iterator[Action]:
        """Returns the actions of every rank, in order. All ranks do the same, so every send has its expect.

        The dispatch of a coming wave is sent before the results of the wave that freed its buffer: results are needed
        at the end only, tokens earlier.
        """
        yield from (Action("expect", wave, "combine") for wave in range(self.num_waves))
        for wave in range(self.depth):
            yield from (Action("expect", wave, "dispatch"), Action("send", wave, "dispatch"))
        for wave in range(self.num_waves):
            yield from (Action("wait", wave, "dispatch"), Action("compute", wave))
            if (coming := wave + self.depth) < self.num_waves:
                yield from (Action("expect", coming, "dispatch"), Action("send", coming, "dispatch"))
            yield Action("send", wave, "combine")
        yield from (Action("wait", wave, "combine") for wave in range(self.num_waves))

    def __str__(self) -> str:
        lines = [
            f"{self.num_experts} experts, {self.num_ranks} ranks, {self.num_waves} waves, a ring of {self.depth}",
            *(
                f"rank {rank}: " + " | ".join(_span(self.experts(rank, wave)) for wave in range(self.num_waves))
                for rank in range(self.num_ranks)
            ),
            "each: " + ", ".join(map(str, self.actions())),
        ]
        return "\n".join(lines)


def _share(whole: range, number: int, of: int) -> range:
    """Returns share `number` of `of` consecutive shares. The first shares are larger by one if the sizes differ."""
    if not 0 <= number < of:
        raise ValueError(f"share {number} is not allowed; expected 0 to {of - 1}")
    size, larger = divmod(len(whole), of)
    first = whole.start + number * size + min(number, larger)
    return range(first, first + size + (number < larger))


def _share_of(item: int, count: int, of: int) -> int:
    """Returns the share of item `item` of `count`."""
    if not 0 <= item < count:
        raise ValueError(f"expert {item} is not allowed; expected 0 to {count - 1}")
    size, larger = divmod(count, of)
    before = larger * (size + 1)
    return item // (size + 1) if item < before else larger + (item - before) // size


def _span(experts: range) -> str:
    return f"{experts.start}" if len(experts) == 1 else f"{experts.start}-{experts.stop - 1}"
