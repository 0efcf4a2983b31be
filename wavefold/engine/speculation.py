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
MEAN_OF = 8
"""Steps of a number of rows whose mean counts, about."""
KNOWN = 8.0
"""Drafts that say with what probability they are right."""
PROBE = 32
"""Steps without drafts after which one is tried again, at the earliest."""
PROBE_SHARE = 0.01
"""The share of the time that such trials may take, at most."""


class StepCost:
    """A line through the seconds of steps by their rows: least squares of a moving mean for each number of rows.

    Steps of other sizes than the last one, and steps that have not come for long, weigh little beside others. But they
    stay: where one number of rows is all that comes, the line still goes through the last steps of another one.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._seen: dict[int, tuple[int, int]] = {}
        """By rows: how many steps count in the mean, and the step when the last one came."""
        self._now = 0
        self._line: tuple[float, float] | None = None

    def observe(self, rows: int, seconds: float) -> None:
        """Is told that a step of `rows` rows, none of a prompt, took `seconds`."""
        self._now += 1
        count = min(self._seen.get(rows, (0, 0))[0] + 1, MEAN_OF)
        before = self._seconds.get(rows, seconds)
        self._seconds[rows] = before + (seconds - before) / count
        self._seen[rows] = count, self._now
        self._line = self._fitted(rows)

    @property
    def line(self) -> tuple[float, float] | None:
        """(fixed, per_row) in seconds, neither negative; None before steps of two numbers of rows were seen twice."""
        return self._line

    def _fitted(self, near: int) -> tuple[float, float] | None:
        weights = {
            rows: count * FORGETTING ** (self._now - last) / (1 + (rows - near) ** 2) ** 2
            for rows, (count, last) in self._seen.items()
            if count > 1
        }
        if len(weights) < 2:
            return None
        total = sum(weights.values())
        rows = sum(weight * rows for rows, weight in weights.items()) / total
        seconds = sum(weight * self._seconds[rows] for rows, weight in weights.items()) / total
        spread = sum(weight * (number - rows) ** 2 for number, weight in weights.items())
        common = sum(weight * (number - rows) * (self._seconds[number] - seconds) for number, weight in weights.items())
        if spread < 1e-200:  # so long ago that numbers do not hold it
            return self._line
        per_row = min(max(common / spread, 0.0), seconds / rows)
        return max(seconds - per_row * rows, 0.0), per_row

    @property
    def per_row(self) -> float:
        """Seconds of a row; 0 before steps of different rows were seen."""
        return (self.line or (0.0, 0.0))[1]

    def seconds(self, rows: int, num_texts: int = 1) -> float:
        """The share of one of `num_texts` texts, of `rows` rows each, in a step.

        Before a line is known they take what rows took at the least, which invites to try: 0 before any was seen.
        """
        if self._line is None:
            return min((seconds / seen for seen, seconds in self._seconds.items()), default=0.0) * rows
        fixed, per_row = self._line
        return fixed / num_texts + per_row * rows


class Acceptance:
    """The probability that a draft of one request is right, if all before it are. It begins at `rate`."""

    def __init__(self, rate: float = 0.5) -> None:
        self._right, self._tried = 2 * rate, 2.0
        self.steps_without = 0
        self._were_right = False

    def observe(self, accepted: int, of: int) -> None:
        """Is told that `accepted` of `of` drafts were right. The first wrong one was tried, those after it were not."""
        if of == 0:
            self.steps_without += 1
            return
        self._were_right = accepted == of
        if self.steps_without >= PROBE:  # so long ago that it is only a guess
            weight = min(self._tried, 2.0)
            self._right, self._tried = self.rate * weight, weight
        self.steps_without = 0
        self._right = self._right * FORGETTING + accepted
        self._tried = self._tried * FORGETTING + min(accepted + 1, of)

    @property
    def rate(self) -> float:
        return self._right / self._tried

    @property
    def invites(self) -> bool:
        """True if the last drafts were right and too few have been tried for their rate to say much."""
        return self._were_right and not self.steps_without and self._tried < KNOWN


class Speculation:
    """Decides the depth of drafts, at most `most`."""

    def __init__(self, most: int):
        self.most = most
        self.cost = StepCost()

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0,
        behind_s: float = 0.0,
    ) -> int:  # fmt: skip
        """The depth for a request in a step of `rows` rows without its drafts, beside `others` other tokens.

        `drafting_s`: the seconds that as many drafts take, `behind_s`: what the first ones take beside. Until a cost is
        known it is 1 in every second step. A trial of 1 comes once steps without drafts have taken so long that it is a
        hundredth of them, and another one after one that was right, a few times.
        """
        line = self.cost.line
        if not self.most or line is None:
            return min(1, self.most, acceptance.steps_without)
        waited = acceptance.steps_without
        trial_s = line[1] + drafting_s(1) + behind_s
        if waited >= PROBE and waited * PROBE_SHARE * (line[0] + line[1] * rows) >= trial_s:
            return 1
        best = max(
            range(self.most + 1),
            key=lambda depth: self.speed(depth, rows, others, acceptance, drafting_s, behind_s),
        )  # fmt: skip
        return best or int(acceptance.invites)

    def speed(
        self, depth: int, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float],
        behind_s: float,
    ) -> float:  # fmt: skip
        """The tokens a second of such a step with `depth` drafts; 0 until a cost is known.

        What the first drafts take beside is shared out among `PROBE` steps.
        """
        if (line := self.cost.line) is None:
            return 0.0
        tokens, right = others + 1.0, 1.0
        for _ in range(depth):
            right *= acceptance.rate
            tokens += right
        seconds = line[0] + line[1] * (rows + depth) + (drafting_s(depth) + behind_s / PROBE if depth else 0.0)
        return tokens / max(seconds, 1e-12)
