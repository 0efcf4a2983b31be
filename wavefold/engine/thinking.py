"""What an answer may be while it reasons, before a form holds it: any text, up to `</think>`.

    <think>  any ordinary tokens  </think>  the form of its grammar (grammar.py)
    (in the prompt)

EOS and the other special tokens are left out: an answer that ended while it reasons would lack its form, and a marker
of tool calls in reasoning would be read as a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold.chat import Tokenizer
from wavefold.chat.special_tokens import END_THINK


class Thinking(NamedTuple):
    """`end`: the id of `</think>`. `mask`: int32 [ceil(vocab / 32)] whose bit i allows token i while it reasons."""

    end: int
    mask: Tensor

    def allows(self, token: int) -> bool:
        return bool(int(self.mask[token // 32]) >> token % 32 & 1)

    def num_allowed(self, drafts: Sequence[int]) -> int:
        """Returns how many of the drafts may come in turn, up to the one that ends the reasoning and with it."""
        for number, draft in enumerate(drafts):
            if draft == self.end:
                return number + 1
            if not self.allows(draft):
                return number
        return len(drafts)


def thinking_of(tokenizer: Tokenizer, vocab_size: int) -> Thinking:
    """Returns the rules of reasoning for a model of so many ids. Raises ValueError without the token `</think>`."""
    if not tokenizer.has(END_THINK):
        raise ValueError(
            f"thinking needs the token {END_THINK!r}, which the model's tokenizer lacks; leave thinking out"
        )
    end = tokenizer.token_id(END_THINK)
    known = range(min(vocab_size, tokenizer.vocab_size))
    ids = torch.tensor([token for token in known if token == end or not tokenizer.is_added(token)])
    bits = torch.zeros(-(-vocab_size // 32) * 32, dtype=torch.int64)
    bits[ids] = 1
    words = (bits.view(-1, 32) << torch.arange(32)).sum(-1)
    return Thinking(end, words.to(torch.uint32).view(torch.int32))
