"""Who guesses the next tokens of requests. A guess is right or costs a row; it never changes an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from wavefold.cache import Sequence as Cached
from wavefold.engine.request import Request


@dataclass(eq=False)
class Text:
    """A request as proposers read it. `sequence`: its cache, of as many of its tokens as have run."""

    request: Request
    sequence: Cached
    tokens: list[int] = field(default_factory=list)
    """Prompt and output, which only grow; as of the last `read`."""

    def read(self) -> None:
        """Reads the tokens that the request has got since the last time."""
        prompt, output = self.request.prompt, self.request.output
        if not self.tokens:
            self.tokens = list(prompt)
        self.tokens += output[len(self.tokens) - len(prompt) :]


class Proposer(Protocol):
    """Guesses for all requests of a runner."""

    window: int
    """It is told the streams of a text's last tokens, at least of so many (0: of none), while it may be asked."""
    kinds: int
    """Guesses are of so many kinds. Those of one kind are right about equally often."""

    def observe(self, text: Text, streams: Tensor | None, accepted: int, of: int) -> None:
        """Is told of a step of `text`: `accepted` of the `of` guesses that it made for it were right.

        `streams` [k, hc, hidden]: those of the last k tokens of the sequence, all of this step; None if `window` is 0.
        It may be told of no step in which it made no guesses.
        """

    def kind(self, text: Text) -> int | None:
        """Returns the kind, below `kinds`, of the guesses that it has for `text` as it is; None if it has none."""

    def seconds(self, depth: int, num_texts: int) -> float:
        """Returns the seconds that guesses for one of `num_texts` are expected to take, in step after step."""

    def behind_s(self, text: Text) -> float:
        """Returns the seconds that the next guesses for `text` take once, since none were asked for meanwhile."""

    def propose(self, texts: Sequence[Text], depths: Sequence[int]) -> list[Sequence[int]]:
        """Returns at most depths[i] guesses of the tokens after those of texts[i]."""

    def forget(self, request: Request) -> None:
        """The request has ended."""
