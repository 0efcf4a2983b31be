"""A hole between two texts as DeepSeek's models fill it: data/fim.py makes what they learn.

BOS <｜fim▁begin｜> before <｜fim▁hole｜> after <｜fim▁end｜>     and then the text that was there
"""

from __future__ import annotations

from wavefold.chat.special_tokens import FIM_BEGIN, FIM_END, FIM_HOLE
from wavefold.chat.tokenizer import Tokenizer

FIM_MARKERS = (FIM_BEGIN, FIM_HOLE, FIM_END)


def hole_ids(tokenizer: Tokenizer, before: str, after: str) -> list[int]:
    """Returns the prompt for a hole. Raises ValueError for a tokenizer that lacks one of `FIM_MARKERS`."""
    begin, hole, end = map(tokenizer.token_id, FIM_MARKERS)
    return [tokenizer.bos_id, begin, *tokenizer.encode(before), hole, *tokenizer.encode(after), end]
