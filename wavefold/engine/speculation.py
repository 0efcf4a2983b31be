"""How many drafts are worth their rows: measured cost and acceptance, numbers only.

A step of r rows is taken to cost fixed + per_row * r seconds. A draft is right with probability p if all before it are,
so d drafts give 1 + p + ... + p^d tokens. The depth is the d with the most tokens a second, 0 included:

    (others + 1 + p + ... + p^d) / (fixed + per_row * (rows + d) + drafting)

where others are the tokens of the requests beside it, and drafting the seconds that the drafts themselves take.

Leviathan et al., Fast Inference from Transformers via Speculative Decoding (2023), section 3.3, with a measured cost.
"""

from __future__ import annotations

from collections.abc import Callable

from wavefold.engine.trials import PROBE, Trials

FORGETTING = 0.95
"""Weight of an observation beside the one after it."""
MEAN_OF = 8
"""Steps of a number of rows whose mean counts, about."""
FAILS, LONGEST_PAUSE = 4, 8
"""A pause is a step longer after so many fails, and has so many steps at most."""
KNOWN = 8.0
"""Drafts that say with what probability they are right."""


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
        self._unfitted = 0
        """The rows of the last step, if the line does not know of it."""

    def observe(self, rows: int, seconds: float) -> None:
        """Is told that a step of `rows` rows, none of a prompt, took `seconds`."""
        self._now += 1
        count = min(self._seen.get(rows, (0, 0))[0] + 1, MEAN_OF)
        before = self._seconds.get(rows, seconds)
        self._seconds[rows] = before + (seconds - before) / count
        self._seen[rows] = count, self._now
        self._unfitted = rows

    @property
    def line(self) -> tuple[float, float] | None:
        """(fixed, per_row) in seconds, neither negative; None before steps of two numbers of rows were seen twice."""
        if self._unfitted:
            self._line, self._unfitted = self._fitted(self._unfitted), 0
        return self._line

    @property
    def is_known(self) -> bool:
        """True if there is a line; cheaper than the line."""
        return self._line is not None or self.line is not None

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
        if (line := self.line) is None:
            return min((seconds / seen for seen, seconds in self._seconds.items()), default=0.0) * rows
        fixed, per_row = line
        return fixed / num_texts + per_row * rows


class Acceptance:
    """The probability that a draft is right, if all before it are. It begins at `rate`."""

    def __init__(self, rate: float = 0.5) -> None:
        self._right, self._tried = 2 * rate, 2.0
        self._were_right = False

    def observe(self, accepted: int, of: int, waited: int = 0) -> None:
        """Is told that `accepted` of `of` drafts were right, after `waited` steps without any.

        The first wrong one was tried, those after it were not.
        """
        if of == 0:
            return
        self._were_right = accepted == of
        if waited >= PROBE:  # so long ago that it is only a guess
            weight = min(self._tried, 2.0)
            self._right, self._tried = self.rate * weight, weight
        self._right = self._right * FORGETTING + accepted
        self._tried = self._tried * FORGETTING + min(accepted + 1, of)

    @property
    def rate(self) -> float:
        return self._right / self._tried

    @property
    def invites(self) -> bool:
        """True if the last drafts were right and too few have been tried for their rate to say much."""
        return self._were_right and self._tried < KNOWN


class Speculation:
    """Decides the depth of drafts, at most `most`. `cost`: of steps. `now`, `now_s`: steps so far, their seconds."""

    def __init__(self, most: int):
        self.most = most
        self.cost = StepCost()
        self.now, self.now_s = 0, 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Is told that a step took `seconds`: with `rows` rows if none was of a prompt, else 0."""
        self.now, self.now_s = self.now + 1, self.now_s + seconds
        if rows:
            self.cost.observe(rows, seconds)

    def depth(
        self, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float] = lambda depth: 0.0,
        behind_s: float = 0.0,
    ) -> int:  # fmt: skip
        """The depth for a request in a step of `rows` rows without its drafts, beside `others` other tokens.

        `drafting_s`: the seconds that as many drafts take, `behind_s`: what the first ones take beside, which is shared
        out among `PROBE` steps. Until a cost is known the depth is 1 in every second step.
        """
        if (line := self.cost.line) is None:
            return min(1, self.most, self.now % 2)
        tokens, right, seconds = others + 1.0, 1.0, line[0] + line[1] * rows
        best, fastest = 0, tokens / max(seconds, 1e-12)
        for depth in range(1, self.most + 1):
            right *= acceptance.rate
            tokens += right
            took = seconds + line[1] * depth + drafting_s(depth) + behind_s / PROBE
            if tokens > fastest * max(took, 1e-12):
                best, fastest = depth, tokens / max(took, 1e-12)
        return best

    def is_trial(self, trials: Trials, waited: int, acceptance: Acceptance, drafting_s: float, behind_s: float) -> bool:
        """True if a draft that does not seem to pay is tried, `waited` steps after the last one; its time is counted.

        After a trial that was right comes another one, a few times.
        """
        if not trials.due(self.now_s, waited) and not (acceptance.invites and waited <= 1):
            return False
        trials.pay(self.now_s, self.cost.per_row + drafting_s + behind_s)
        return True

    def rest(self, trials: Trials, waited: int, rows: int) -> int:
        """Returns the steps of `rows` rows until a trial is due; 0 until a cost is known."""
        if (line := self.cost.line) is None:
            return 0
        return trials.steps_until(self.now_s, waited, line[0] + line[1] * rows)

    def pause(self, fails: int) -> int:
        """Returns the steps in which it is not asked for drafts that cost nothing, after it had none `fails` times."""
        return min(fails // FAILS, LONGEST_PAUSE) if self.cost.is_known else 0

    def speed(
        self, depth: int, rows: int, others: int, acceptance: Acceptance, drafting_s: Callable[[int], float],
        behind_s: float,
    ) -> float:  # fmt: skip
        """The tokens a second of such a step with `depth` drafts; 0 until a cost is known."""
        if (line := self.cost.line) is None:
            return 0.0
        tokens, right = others + 1.0, 1.0
        for _ in range(depth):
            right *= acceptance.rate
            tokens += right
        seconds = line[0] + line[1] * (rows + depth) + (drafting_s(depth) + behind_s / PROBE if depth else 0.0)
        return tokens / max(seconds, 1e-12)
