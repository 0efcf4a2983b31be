"""Who guesses the next tokens of a request. A guess is right or costs a row; it never changes an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Proposer(Protocol):
    """Guesses for one request."""

    def propose(self, tokens: Sequence[int], depth: int) -> Sequence[int]:
        """Returns at most `depth` guesses of the tokens after `tokens`, prompt and answer, which only grow."""

    def observe(self, accepted: int, of: int) -> None:
        """Is told that `accepted` of the `of` guesses of a step were right."""
