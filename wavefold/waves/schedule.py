"""The schedule of a layer's experts over ranks, in waves: one object that runs, prints, draws and is simulated.

    wave w      the w-th slice of every rank's experts; its compute begins when all its tokens are there
    dispatch    token rows to the ranks that have their experts
    combine     what the experts made of them, back

    rank 0   D0 D1 | K0  K1  K2  K3 |           while wave w computes, the tokens of w + 1 arrive and the
    link     D0 D1 D2 C0 D3 C1 C2 C3            results of w - 1 leave

Waves change when things are done, never what: each expert meets all its rows at once, in the order of ranks and tokens.
Report section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["dispatch", "combine"]
Action = Literal["expect", "send", "wait", "compute"]


@dataclass(frozen=True)
class Step:
    """What a rank does next. `kind` is None for "compute"."""

    action: Action
    wave: int
    kind: Kind | None = None

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.wave}" if self.kind else f"{self.action} {self.wave}"


@dataclass(frozen=True)
class Waves:
    """`num_experts` routed experts over `num_ranks` ranks, the ones of a rank in `num_waves` waves.

    `ring`: waves whose tokens may be under way or waiting at a time; as many buffers hold them. A ring of one forbids
    that a wave's tokens travel while another computes.
    """

    num_experts: int
    num_ranks: int = 1
    num_waves: int = 1
    ring: int = 0
    """0: as many as waves."""

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
        """Experts of the rank that has the fewest: more waves would be empty on it."""
        return self.num_experts // self.num_ranks

    @property
    def depth(self) -> int:
        """The ring's waves."""
        return self.ring or self.num_waves

    def experts_of(self, rank: int) -> range:
        """A rank's experts: consecutive ones, as many as the others' or one more."""
        return _share(range(self.num_experts), rank, self.num_ranks)

    def experts(self, rank: int, wave: int) -> range:
        """Those of a wave."""
        return _share(self.experts_of(rank), wave, self.num_waves)

    def rank_of(self, expert: int) -> int:
        """Who has an expert."""
        return _share_of(expert, self.num_experts, self.num_ranks)

    def wave_of(self, expert: int) -> int:
        """When it works."""
        local = self.experts_of(self.rank_of(expert))
        return _share_of(expert - local.start, len(local), self.num_waves)

    def steps(self) -> Iterator[Step]:
        """What every rank does, in order; all do the same, so what one sends the other expects.

        A wave's dispatch leaves before the results of the wave that made room for it: results have time until the end,
        tokens have not.
        """
        yield from (Step("expect", wave, "combine") for wave in range(self.num_waves))
        for wave in range(self.depth):
            yield from (Step("expect", wave, "dispatch"), Step("send", wave, "dispatch"))
        for wave in range(self.num_waves):
            yield from (Step("wait", wave, "dispatch"), Step("compute", wave))
            if (coming := wave + self.depth) < self.num_waves:
                yield from (Step("expect", coming, "dispatch"), Step("send", coming, "dispatch"))
            yield Step("send", wave, "combine")
        yield from (Step("wait", wave, "combine") for wave in range(self.num_waves))

    def __str__(self) -> str:
        lines = [
            f"{self.num_experts} experts, {self.num_ranks} ranks, {self.num_waves} waves, a ring of {self.depth}",
            *(
                f"rank {rank}: " + " | ".join(_span(self.experts(rank, wave)) for wave in range(self.num_waves))
                for rank in range(self.num_ranks)
            ),
            "each: " + ", ".join(map(str, self.steps())),
        ]
        return "\n".join(lines)


def _share(whole: range, number: int, of: int) -> range:
    """The number-th of `of` consecutive shares, the first ones larger by one where they are not equal."""
    if not 0 <= number < of:
        raise ValueError(f"share {number} is not allowed; expected 0 to {of - 1}")
    size, larger = divmod(len(whole), of)
    first = whole.start + number * size + min(number, larger)
    return range(first, first + size + (number < larger))


def _share_of(item: int, count: int, of: int) -> int:
    """Which share has the item-th of `count`."""
    if not 0 <= item < count:
        raise ValueError(f"expert {item} is not allowed; expected 0 to {count - 1}")
    size, larger = divmod(count, of)
    before = larger * (size + 1)
    return item // (size + 1) if item < before else larger + (item - before) // size


def _span(experts: range) -> str:
    return f"{experts.start}" if len(experts) == 1 else f"{experts.start}-{experts.stop - 1}"
