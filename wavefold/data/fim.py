"""Fill in the middle: some documents are learned as the text around a hole, then the text in it.

    prefix middle suffix  -->  BOS <｜fim▁begin｜> prefix <｜fim▁hole｜> suffix <｜fim▁end｜> middle EOS

DeepSeek-V3's form (its report, section 4.1; V4's report keeps it): prefix, suffix, middle, for one document in ten,
applied before packing. All tokens are learned. Here a hole begins and ends between any two tokens, or it is a line or a
part of one (`line_holes.py`), as in an editor: then its ends are places in the text, and the three parts are encoded
apart, as those of a prompt are.

A document longer than a sequence is cut into spans of nearly equal length, and each span gets a hole. With one hole in
the whole document, most sequences would hold no hole, or a middle without its surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wavefold.data.line_holes import line_hole

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
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class FillInMiddle:
    """Share of documents that get a hole, and ids of the markers around the parts.

    `lines`: share of the holes that are a line or a part of one. They need `vocabulary`.
    """

    rate: float
    begin: int
    hole: int
    end: int
    bos: int = 0
    eos: int = 1
    lines: float = 0.0
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"fim_rate = {self.rate} is not allowed; expected 0 to 1 (DeepSeek-V3: 0.1)")
        if not 0 <= self.lines <= 1:
            raise ValueError(f"fim_lines = {self.lines} is not allowed; expected 0 to 1")

    @classmethod
    def of(cls, tokenizer: Vocabulary, rate: float = 0.1, lines: float = 0.0) -> FillInMiddle:
        """Takes the ids from a tokenizer. Raises ValueError if it lacks a marker."""
        begin, hole, end = map(tokenizer.token_id, (BEGIN, HOLE, END))
        bos, eos = tokenizer.bos_id, tokenizer.eos_id
        return cls(rate, begin, hole, end, bos, eos, lines, tokenizer if lines else None)

    def choose(self, seed: int, stage: int, epoch: int, num_documents: int) -> np.ndarray:
        """Returns bool [num_documents]: True for documents that get a hole in this epoch."""
        return np.random.default_rng((seed, CHOICE, stage, epoch)).random(num_documents) < self.rate

    def rearrange(self, span: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
        """Tokens [n] without BOS and EOS -> [n + SENTINELS]. The position of the hole depends on `place` alone.

        A hole of a line gives [n + SENTINELS] at most: parts that are encoded apart may be fewer tokens, and of more
        than that the last ones of the suffix are left out, then the first ones of the prefix.
        """
        rng = np.random.default_rng((CUTS, *place))
        if self.vocabulary is not None and rng.random() < self.lines:
            parts = self._around_line(span, self.vocabulary, rng)
            if parts is not None:
                return self._joined(*parts)
        first, last = np.sort(rng.integers(0, len(span) + 1, 2))
        return self._joined(span[:first], span[first:last], span[last:])

    def _around_line(
        self, span: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Returns prefix, middle and suffix around a hole of a line. None: the span has none, or the hole no room."""
        text = vocabulary.decode(span.tolist())
        hole = line_hole(text, rng)
        if hole is None:
            return None
        first, last = hole
        texts = text[:first], text[first:last], text[last:]
        prefix, middle, suffix = (np.array(vocabulary.encode(part), np.int64) for part in texts)
        room = len(span) - len(middle)
        suffix = suffix[: max(0, room - len(prefix))]
        return (prefix[max(0, len(prefix) - room) :], middle, suffix) if room >= 0 else None

    def _joined(self, prefix: np.ndarray, middle: np.ndarray, suffix: np.ndarray) -> np.ndarray:
        marks = np.array([self.bos, self.begin, self.hole, self.end, self.eos], np.int64)
        parts = marks[:2], prefix, marks[2:3], suffix, marks[3:4], middle, marks[4:]
        return np.concatenate([part.astype(np.int64) for part in parts])
