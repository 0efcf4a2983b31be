"""Prompt look-up: the text after the last tokens' earlier occurrence is a guess of how the text goes on.

    ... def read ( path ) : ...        def read ( pa       the last three tokens came before: `th ) :` is the guess

Saxena, Prompt Lookup Decoding (2023). It costs no model and guesses well where an answer repeats its prompt or itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wavefold.engine.proposer import Text
from wavefold.engine.request import Request

SHORTEST, LONGEST = 2, 4
"""Tokens that must match."""


class Lookup:
    """The matches of one text. It remembers where each run of SHORTEST to LONGEST tokens came last.

    After guesses that were all wrong a longer match is asked for, after a right one the shortest again.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        """The position after a run of tokens, of its last occurrence that something follows."""
        self._num_read = 0
        self._least = SHORTEST

    def propose(self, tokens: Sequence[int], depth: int) -> Sequence[int]:
        """Returns `depth` tokens as they followed the longest match of the last ones, or none.

        Where the match is less than `depth` tokens back, the text between is taken to repeat itself.
        """
        if (end := self._match(tokens)) is None:
            return []
        return [tokens[end + number % (len(tokens) - end)] for number in range(depth)]

    def finds(self, tokens: Sequence[int]) -> bool:
        """True if the last tokens have a match."""
        return self._match(tokens) is not None

    def _match(self, tokens: Sequence[int]) -> int | None:
        """Returns the position after the longest match of the last tokens."""
        self._read(tokens)
        for length in range(LONGEST, self._least - 1, -1):
            if len(tokens) >= length and (end := self._ends.get(tuple(tokens[-length:]))) is not None:
                return end
        return None

    def observe(self, accepted: int, of: int) -> None:
        """Is told that `accepted` of the `of` guesses of a step were right."""
        if accepted:
            self._least = SHORTEST
        elif of:
            self._least = min(self._least + 1, LONGEST)

    def _read(self, tokens: Sequence[int]) -> None:
        """Remembers the runs that end before the last token: only those have a token after them."""
        for end in range(self._num_read + 1, len(tokens)):
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - length : end])] = end
        self._num_read = max(self._num_read, len(tokens) - 1)


class LookupDrafts:
    """The proposer: a `Lookup` for each text."""

    window = 0

    def __init__(self) -> None:
        self._lookups: dict[Request, Lookup] = {}

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        if (lookup := self._lookups.get(text.request)) is not None:
            lookup.observe(accepted, of)

    def finds(self, text: Text) -> bool:
        return self._of(text).finds(text.tokens)

    def seconds(self, depth: int, num_texts: int) -> float:
        return 0.0

    def behind_s(self, text: Text) -> float:
        return 0.0

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        return [self._of(text).propose(text.tokens, depth) for text, depth in zip(texts, depths, strict=True)]

    def _of(self, text: Text) -> Lookup:
        if (lookup := self._lookups.get(text.request)) is None:
            lookup = self._lookups[text.request] = Lookup()
        return lookup

    def forget(self, request: Request) -> None:
        self._lookups.pop(request, None)


def propose(tokens: Sequence[int], depth: int) -> Sequence[int]:
    """Returns the guesses of a new `Lookup`: `depth` tokens that may follow `tokens`, or none."""
    return Lookup().propose(tokens, depth)
