"""Prompt look-up: the text after the last tokens' earlier occurrence is a guess of how the text goes on.

    ... def read ( path ) : ...        def read ( pa       the last three tokens came before: `th ) :` is the guess

The longer the match, the likelier the guess: guesses are told apart by the length of their match (`KINDS`).

Saxena, Prompt Lookup Decoding (2023). It costs no model and guesses well where an answer repeats its prompt or itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wavefold.engine.proposer import Text
from wavefold.engine.request import Request

SHORTEST, LONGEST = 2, 16
"""Tokens that must match, and those that are compared."""
MOST_TRIED = 16
"""Earlier occurrences of the last SHORTEST tokens that are compared, from the last one back."""
KINDS = 2, 3, 4, 6, 10, LONGEST
"""The least length of a match of each kind."""
_KIND_OF = [sum(length >= least for least in KINDS) - 1 for length in range(LONGEST + 1)]


class Lookup:
    """The matches of one text. It remembers where each run of SHORTEST tokens came, and finds the longest match there.

    It reads the tokens that are new when it is asked.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], int] = {}
        """The position after a run of tokens, of its last occurrence that something follows."""
        self._before: list[int] = [0, 0]
        """By that position: the one of the occurrence before, 0 for none."""
        self._asked = -1
        self._found: tuple[int, int] | None = None

    def propose(self, tokens: Sequence[int], depth: int) -> Sequence[int]:
        """Returns `depth` tokens as they followed the longest match of the last ones, or none.

        Where the match is less than `depth` tokens back, the text between is taken to repeat itself.
        """
        if (match := self.match(tokens)) is None:
            return []
        end, back = match[0], len(tokens) - match[0]
        return tokens[end : end + depth] if depth <= back else [tokens[end + n % back] for n in range(depth)]

    def match(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """Returns (end, length) of the longest match of the last tokens, of equal ones the last; None without one."""
        if len(tokens) != self._asked:
            self._read(tokens)
            self._asked, self._found = len(tokens), self._longest(tokens)
        return self._found

    def _longest(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        if len(tokens) < SHORTEST:
            return None
        at, best, longest, count = self._last.get((tokens[-2], tokens[-1]), 0), 0, 0, 0
        while at and count < MOST_TRIED and longest < LONGEST:
            most = min(at, LONGEST)
            length = SHORTEST
            while length < most and tokens[at - 1 - length] == tokens[-1 - length]:
                length += 1
            if length > longest:
                best, longest = at, length
            at, count = self._before[at], count + 1
        return (best, longest) if best else None

    def _read(self, tokens: Sequence[int]) -> None:
        """Remembers the runs that end before the last token: only those have a token after them."""
        for end in range(len(self._before), len(tokens)):
            run = tokens[end - 2], tokens[end - 1]
            self._before.append(self._last.get(run, 0))
            self._last[run] = end


class LookupDrafts:
    """The proposer: a `Lookup` for each text."""

    window, kinds = 0, len(KINDS)

    def __init__(self) -> None:
        self._lookups: dict[Request, Lookup] = {}

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        pass

    def kind(self, text: Text) -> int | None:
        match = self._of(text).match(text.tokens)
        return None if match is None else _KIND_OF[match[1]]

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
