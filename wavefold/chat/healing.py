"""A prompt that ends inside a token of training.

`def f(n):` ends in the token `):`, and training never saw a line go on after it: there the token was `):` with the line
break and the next line's indentation. So the last token is taken back, and the answer's first token is chosen among
those that begin with its bytes; the answer's text is what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wavefold.chat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """`ids` to run; then, where a token was taken back, its bytes `taken` and the ids that begin with them."""

    ids: Sequence[int]
    taken: bytes = b""
    first_ids: tuple[int, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt as it was written, the one that was taken back among them."""
        return len(self.ids) + (self.first_ids is not None)


def heal(tokenizer: Tokenizer, ids: Sequence[int]) -> Prompt:
    """The prompt `ids` with its last token taken back, where another could stand in its place.

    Special tokens are never taken back.
    """
    if len(ids) < 2 or tokenizer.is_added(ids[-1]):
        return Prompt(ids)
    taken = tokenizer.token_bytes(ids[-1])
    first = tokenizer.beginning_with(taken)
    return Prompt(ids[:-1], taken, first) if len(first) > 1 else Prompt(ids)
