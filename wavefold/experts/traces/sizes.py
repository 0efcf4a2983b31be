"""Policies over numbers of slots, on a trace, and the numbers of slots that are worth their memory.

The first half of the tokens fills the slots and chooses the hot list; hits are counted on the second half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wavefold.experts.slots import Slots
from wavefold.experts.streamed import LEAST_SLOTS, slot_bytes
from wavefold.experts.traces.optimum import Optimum
from wavefold.experts.traces.policies import Forgetful, Frequency, HotList, LayerRecency, Policy, Recency
from wavefold.experts.traces.replay import replay
from wavefold.experts.traces.trace import Trace

OURS, OPTIMUM = "slots", "optimum"
SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Of all experts, for which policies are compared."""

Progress = Callable[[int, int], None]
"""Is told how many replays are done, of how many."""


@dataclass(frozen=True)
class Size:
    """A number of slots. `hits`: by policy, the share of the experts asked for that is in memory."""

    num_slots: int
    slot_bytes: int
    """Of all slots."""
    hits: dict[str, float]
    bytes_per_token: float
    """Read by the project's own policy, of whole experts."""

    def tokens_per_s(self, disk_rate: float) -> float:
        """Tokens a second at which a disk of `disk_rate` bytes a second is busy all the time; inf without reads."""
        return disk_rate / self.bytes_per_token if self.bytes_per_token else float("inf")


class Sizes:
    """The second half of a trace, under any policy and number of slots."""

    def __init__(self, trace: Trace):
        self.trace = trace
        self._first, self._second, self.num_tokens = trace.halves()
        self.num_asked = sum(len(asking.experts) for asking in self._second)
        self.num_experts = trace.num_layers * trace.num_experts

    def check(self, num_slots: int) -> None:
        """Raises ValueError for a number of slots that cannot be compared."""
        if not self.least <= num_slots <= self.num_experts:
            raise ValueError(
                f"{num_slots} slots are not allowed; expected {self.least} (one a layer, and {self.trace.topk} + 1) to "
                f"{self.num_experts:,}, which is all experts"
            )

    @property
    def least(self) -> int:
        return max(LEAST_SLOTS, self.trace.num_layers, self.trace.topk + 1)

    def default_slots(self) -> list[int]:
        """Returns numbers of slots over the whole range."""
        return sorted({max(self.least, round(share * self.num_experts)) for share in SHARES})

    def size(self, num_slots: int) -> Size:
        """Returns the hit rates of all policies."""
        self.check(num_slots)
        layers, experts = self.trace.num_layers, self.trace.num_experts
        policies: dict[str, Policy] = {
            "layer LRU": LayerRecency(num_slots, layers),
            "LRU": Recency(num_slots),
            "LFU": Frequency(num_slots, layers, experts),
            "hot list": self._hot_list(num_slots),
            "forgetful": Forgetful(num_slots, layers),
            OURS: Slots(num_slots, layers),
        }
        hits = {name: self._warm(policy, num_slots) for name, policy in policies.items()}
        hits[OPTIMUM] = replay(self._second, Optimum(num_slots, self._second), num_slots, experts)
        rates = {name: count / self.num_asked for name, count in hits.items()}
        return Size(num_slots, num_slots * self.bytes_per_slot, rates, self._bytes_per_token(rates[OURS]))

    def ours(self, num_slots: int) -> Size:
        """Returns the hit rate of the project's own policy alone."""
        self.check(num_slots)
        rate = self._warm(Slots(num_slots, self.trace.num_layers), num_slots) / self.num_asked
        return Size(num_slots, num_slots * self.bytes_per_slot, {OURS: rate}, self._bytes_per_token(rate))

    @property
    def bytes_per_slot(self) -> int:
        return slot_bytes(self.trace.expert_bytes)

    def fewest(self, share: float) -> Size:
        """Returns the fewest slots with which at most `share` of the experts asked for is read, by bisection.

        Hit rates are taken to grow with slots. Raises ValueError for a share outside [0, 1].
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share} to read is not allowed; expected 0 to 1")
        low, high = self.least, self.num_experts
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if 1 - self.ours(middle).hits[OURS] <= share else (middle + 1, high)
        return self.ours(low)

    def _warm(self, policy: Policy, num_slots: int) -> int:
        replay(self._first, policy, num_slots, self.trace.num_experts)
        return replay(self._second, policy, num_slots, self.trace.num_experts)

    def _hot_list(self, num_slots: int) -> HotList:
        """Returns the experts that the first half asked for most often, with room for one token of a layer beside."""
        counts = Counter((asking.layer, expert) for asking in self._first for expert in asking.experts)
        return HotList(num_slots, [key for key, _ in counts.most_common(num_slots - self.trace.topk)])

    def _bytes_per_token(self, hit_rate: float) -> float:
        return (1 - hit_rate) * self.num_asked * self.trace.expert_bytes / self.num_tokens


def compared(sizes: Sizes, slots: Sequence[int], on_progress: Progress = lambda done, of: None) -> list[Size]:
    """Returns a Size for each number of slots, ascending, with all policies."""
    for num_slots in slots:
        sizes.check(num_slots)
    rows = []
    for number, num_slots in enumerate(sorted(set(slots))):
        on_progress(number, len(slots))
        rows.append(sizes.size(num_slots))
    return rows


def knee(rows: Sequence[Size]) -> Size:
    """Returns the row from which on a slot brings less than in the mean over all rows: farthest above their chord."""
    first, last = rows[0], rows[-1]
    slope = (last.hits[OURS] - first.hits[OURS]) / max(1, last.num_slots - first.num_slots)
    return max(rows, key=lambda row: row.hits[OURS] - slope * row.num_slots)
