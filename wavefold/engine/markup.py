"""Which tokens the markers of tool calls allow next, beside a grammar (call_grammar.py).

    free text          `｜DSML｜` only after a blank line and `<`
    a tag              up to its `>`
    a text as it is    `｜DSML｜` only after `</`
    any other place    `｜DSML｜` where the grammar says

Everywhere: ordinary tokens never spell `｜DSML｜`, so that a reader of the text finds the markers that are tokens,
and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import DSML

SPELLED = DSML.encode()
TEXT_TAG = b' string="true">'
BEFORE: dict[str, bytes] = {"free": b"\n\n<", "text": b"</"}
"""What must stand before the marker."""


class Markup:
    """The marker in a tokenizer. Raises ValueError for a tokenizer without it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        if not tokenizer.has(DSML):
            raise ValueError(f"tools need the token {DSML!r}, which the model's tokenizer lacks; leave tools out")
        self.marker = tokenizer.token_id(DSML)
        self._tokenizer = tokenizer
        known = [token for token in range(min(vocab_size, tokenizer.vocab_size)) if not tokenizer.is_added(token)]
        spelled = {token: tokenizer.token_bytes(token) for token in known}
        whole = [token for token, text in spelled.items() if SPELLED in text]
        ends = [
            [token for token, text in spelled.items() if count and text.startswith(SPELLED[count:])]
            for count in range(len(SPELLED))
        ]
        self.others = [_words([*whole, *tokens], vocab_size) for tokens in ends]
        """By how many bytes of the marker have been spelled: a mask of the tokens that do not complete it."""
        self.no_marker = _words([self.marker], vocab_size)

    def start(self) -> MarkupState:
        """Returns the state before an answer's first token."""
        return MarkupState(self)

    def token_bytes(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)


def _words(tokens: list[int], vocab_size: int) -> Tensor:
    """A mask, int32 [ceil(vocab / 32)], of all tokens but these."""
    bits = torch.ones(-(-vocab_size // 32) * 32, dtype=torch.int64)
    bits[tokens] = 0
    words = (bits.view(-1, 32) << torch.arange(32)).sum(-1)
    return words.to(torch.uint32).view(torch.int32)


@dataclass(frozen=True)
class MarkupState:
    """Where in an answer's markup its next token stands. `tail`: the last bytes since a marker."""

    markup: Markup
    place: Literal["free", "tag", "text", "other"] = "free"
    tail: bytes = b""

    def after(self, token: int) -> MarkupState:
        """Returns the state after a token that was allowed."""
        if token == self.markup.marker:
            return replace(self, place="tag", tail=b"")
        place, text = self.place, self.markup.token_bytes(token)
        if place == "tag" and (end := text.find(b">") + 1):
            place = "text" if (self.tail + text[:end]).endswith(TEXT_TAG) else "other"
        return replace(self, place=place, tail=(self.tail + text)[-len(TEXT_TAG) :])

    def restrict(self, words: Tensor) -> None:
        """Takes the tokens out of a mask that are not allowed here."""
        words &= self.markup.others[self._num_spelled]
        if not self._may_mark:
            words &= self.markup.no_marker

    def allows(self, token: int) -> bool:
        """True if `restrict` leaves a token."""
        if token == self.markup.marker:
            return self._may_mark
        return bool(int(self.markup.others[self._num_spelled][token // 32]) >> token % 32 & 1)

    @property
    def _may_mark(self) -> bool:
        return self.tail.endswith(BEFORE.get(self.place, b""))

    @property
    def _num_spelled(self) -> int:
        """How many bytes of the marker the tail ends with."""
        return next(count for count in range(len(SPELLED) - 1, -1, -1) if self.tail.endswith(SPELLED[:count]))
