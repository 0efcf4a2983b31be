"""Fill in the middle: some documents are learned as the text around a hole, then the text in it.

    prefix middle suffix  -->  BOS <｜fim▁begin｜> prefix <｜fim▁hole｜> suffix <｜fim▁end｜> middle EOS

DeepSeek-V3's form (its report, section 4.1; V4's report keeps it): prefix, suffix, middle, for one document in ten,
applied before packing. All tokens are learned. Here a hole begins and ends between any two tokens.

A document longer than a sequence is cut into spans of nearly equal length, and each span gets a hole. With one hole in
the whole document, most sequences would hold no hole, or a middle without its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

SENTINELS = 5
"""Number of tokens around a span: BOS, the three markers, EOS."""

BEGIN, HOLE, END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
CHOICE, CUTS = 1, 2
"""Random stream ids for choosing documents and for placing holes. (0 is the order of pieces.)"""


class Vocabulary(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    def token_id(self, token: str) -> int: ...


@dataclass(frozen=True)
class FillInMiddle:
    """Share of documents that get a hole, and ids of the markers around the parts."""

    rate: float
    begin: int
    hole: int
    end: int
    bos: int = 0
    eos: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"fim_rate = {self.rate} is not allowed; expected 0 to 1 (DeepSeek-V3: 0.1)")

    @classmethod
    def of(cls, tokenizer: Vocabulary, rate: float = 0.1) -> FillInMiddle:
        """Takes the ids from a tokenizer. Raises ValueError if it lacks a marker."""
        begin, hole, end = map(tokenizer.token_id, (BEGIN, HOLE, END))
        return cls(rate, begin, hole, end, tokenizer.bos_id, tokenizer.eos_id)

    def choose(self, seed: int, stage: int, epoch: int, num_documents: int) -> np.ndarray:
        """Returns bool [num_documents]: True for documents that get a hole in this epoch."""
        return np.random.default_rng((seed, CHOICE, stage, epoch)).random(num_documents) < self.rate

    def rearrange(self, span: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
        """Tokens [n] without BOS and EOS -> [n + SENTINELS]. The position of the hole depends on `place` alone."""
        first, last = np.sort(np.random.default_rng((CUTS, *place)).integers(0, len(span) + 1, 2))
        marks = np.array([self.bos, self.begin, self.hole, self.end, self.eos], np.int64)
        parts = marks[:2], span[:first], marks[2:3], span[last:], marks[3:4], span[first:last], marks[4:]
        return np.concatenate([part.astype(np.int64) for part in parts])
