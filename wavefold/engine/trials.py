"""Trials of guesses that do not seem to pay: when one is due, so that all of them take a small share of the time.

A trial may come once the time since the last ones is so long that what they took is `share` of it.
"""

from __future__ import annotations

import math

PROBE = 32
"""Steps of a text without guesses after which they are tried again, at the earliest."""
PROBE_SHARE = 0.01
"""The share of the time that the trials of all proposers may take, at most."""


class Trials:
    """The trials of one proposer, for all texts together. Times are seconds of steps, from the first one on."""

    def __init__(self, share: float = PROBE_SHARE):
        self._share, self._free_s = share, 0.0

    def due(self, now_s: float, waited: int) -> bool:
        """True for a text that has had no guess for `waited` steps, if earlier trials are paid for."""
        return waited >= PROBE and now_s >= self._free_s

    def pay(self, now_s: float, cost_s: float) -> None:
        """Is told of a trial that takes `cost_s`, of all that it needs."""
        self._free_s = max(self._free_s, now_s) + cost_s / self._share

    def steps_until(self, now_s: float, waited: int, step_s: float) -> int:
        """Returns the steps, of `step_s` each, after which one is due for a text that has waited for `waited`."""
        return max(PROBE - waited, math.ceil((self._free_s - now_s) / max(step_s, 1e-9)), 0)
