"""How many drafts are worth their rows: measured cost and acceptance, numbers only.

A step of r rows is taken to cost fixed + per_row * r seconds. A draft is right with probability p if all before it are,
so d drafts give 1 + p + ... + p^d tokens. The depth is the d with the most tokens a second, 0 included:

    (others + 1 + p + ... + p^d) / (fixed + per_row * (rows + d) + drafting)

where others are the tokens of the requests beside it, and drafting the seconds that the drafts themselves take.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding (2023), section 3.3, with a measured cost.
"""

from __future__ import annotations

from collections.abc import Callable

FORGETTING = 0.95
"""Weight of an observation beside the one after it."""
PROBE = 32
"""Steps without drafts after which one is tried again, at the earliest."""
PROBE_SHARE = 0.01
"""The share of the time that such trials may take, at most."""


class StepCost:
    """A line through the seconds of steps by their rows, by weighted least squares; old steps are forgotten."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = 0.0
        self._spread = self._common = 0.0
        """Sums of the weighted squares of rows, and of rows times seconds, around the means."""

    def observe(self, rows: int, seconds: float) -> None:
        """Is told that a step of `rows` rows, none of a prompt, took `seconds`."""
        self._spread, self._common = self._spread * FORGETTING, self._common * FORGETTING
        self._weight = self._weight * FORGETTING + 1
        moved = rows - self._rows
        self._rows += moved / self._weight
        self._common += moved * (seconds - self._seconds) * (1 - 1 / self._weight)
        self._seconds += (seconds - self._seconds) / self._weight
        self._spread += moved * (rows - self._rows)

    @property
    def line(self) -> tuple[float, float] | None:
        """(fixed, per_row) in seconds, neither negative; None before steps of different rows were seen."""
        if self._spread < 1e-3:
            return None
        per_row = min(max(self._common / self._spread, 0.0), self._seconds / self._rows)
        return max(self._seconds - per_row * self._rows, 0.0), per_row

    def seconds(self, rows: int, num_texts: int = 1) -> float:
        """The share of one of `num_texts` texts, of `rows` rows each, in a step; 0 before any was seen."""
        fixed, per_row = self.line or (self._seconds, 0.0)
        return fixed / num_texts + per_row * rows


class Acceptance:
    """The probability that a draft of one request is right, if all before it are. It begins at `rate`."""

    def __init__(self, rate: float = 0.5) -> None:
        self._right, self._tried = 2 * rate, 2.0
        self.steps_without = 0

    def observe(self, accepted: int, of: int) -> None:
        """Is told that `accepted` of `of` drafts were right. The first wrong one was tried, those after it were not."""
        if of == 0:
            self.steps_without += 1
            return
        self.steps_without = 0
        self._right = self._right * FORGETTING + accepted
        self._tried = self._tried * FORGETTING + min(accepted + 1, of)

    @property
    def rate(self) -> float:
        return self._right / self._tried


class Speculation:
    """Decides the depth of drafts, at most `most`."""

    def __init__(self, most: int):
        self.most = most
        self.cost = StepCost()

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0
    ) -> int:  # fmt: skip
        """The depth for a request in a step of `rows` rows without its drafts, beside `others` other tokens.

        `drafting_s`: the seconds that as many drafts take. Until a cost is known, and once steps without drafts have
        taken so long that a trial is a hundredth of them, it is 1.
        """
        line = self.cost.line
        if not self.most or line is None:
            return min(1, self.most)
        waited = acceptance.steps_without
        trial_s = line[1] + drafting_s(1)
        if waited >= PROBE and waited * PROBE_SHARE * (line[0] + line[1] * rows) >= trial_s:
            return 1
        return max(
            range(self.most + 1), key=lambda depth: self.speed(depth, rows, others, acceptance, drafting_s)
        )  # fmt: skip

    def speed(
        self, depth: int, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float]
    ) -> float:  # fmt: skip
        """The tokens a second of such a step with `depth` drafts; 0 until a cost is known."""
        if (line := self.cost.line) is None:
            return 0.0
        tokens = others + sum(acceptance.rate**number for number in range(depth + 1))
        seconds = line[0] + line[1] * (rows + depth) + (drafting_s(depth) if depth else 0.0)
        return tokens / max(seconds, 1e-12)
