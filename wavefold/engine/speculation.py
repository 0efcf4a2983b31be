"""How many drafts are worth their rows: measured cost and acceptance, numbers only.

A step of r rows is taken to cost fixed + per_row * r seconds. A draft is right with probability p if all before it are,
so d drafts give 1 + p + ... + p^d tokens. The depth is the d with the most tokens a second, 0 included:

    (others + 1 + p + ... + p^d) / (fixed + per_row * (rows + d))        others: tokens of the requests beside it

Leviathan et al., Fast Inference from Transformers via Speculative Decoding (2023), section 3.3, with a measured cost.
"""

from __future__ import annotations

FORGETTING = 0.95
"""Weight of an observation beside the one after it."""
PROBE = 32
"""Steps without drafts after which one is tried again."""


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


class Acceptance:
    """The probability that a draft of one request is right, if all before it are. It begins at one half."""

    def __init__(self) -> None:
        self._right, self._tried = 1.0, 2.0
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

    def depth(self, rows: int, others: int, acceptance: Acceptance) -> int:
        """The depth for a request in a step of `rows` rows without its drafts, beside `others` other tokens.

        Until a cost is known, and after `PROBE` steps without drafts, it is 1.
        """
        line = self.cost.line
        if not self.most or line is None or acceptance.steps_without >= PROBE:
            return min(1, self.most)
        fixed, per_row = line
        best, most_tokens_per_s, tokens, right = 0, 0.0, float(others), 1.0
        for depth in range(self.most + 1):
            tokens += right
            right *= acceptance.rate
            tokens_per_s = tokens / max(fixed + per_row * (rows + depth), 1e-12)
            if tokens_per_s > most_tokens_per_s:
                best, most_tokens_per_s = depth, tokens_per_s
        return best
