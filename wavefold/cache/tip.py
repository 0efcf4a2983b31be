"""The end of a past: what a sequence needs, beside its blocks, to go on from there."""

from __future__ import annotations

from typing import NamedTuple

from wavefold.cache.layout import REWIND
from wavefold.cache.state import SequenceState


class Tip(NamedTuple):
    """Rings and tails of a sequence that has `num_tokens` tokens.

    `high`: its furthest position, which bounds rewinds. `mtp_tokens`: the tokens whose rows the MTP layers have. The
    order of the fields is that of `Sequence._with_past`.
    """

    num_tokens: int
    high: int
    mtp_tokens: range
    state: SequenceState

    @property
    def slack(self) -> int:
        """The number of tokens that a sequence at this tip can step back."""
        return max(0, min(self.num_tokens, REWIND - (self.high - self.num_tokens)))
