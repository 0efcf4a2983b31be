"""One pass over new tokens of several sequences: a scheduler decides it, a model runs it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from torch import Tensor

from wavefold.cache import Pool, Sequence


@dataclass(frozen=True)
class Step:
    """`tokens` int64 [n]: counts[0] new tokens of sequences[0], then counts[1] of sequences[1], and so on.

    `wanted`: the rows of `tokens` whose logits are returned, `streams_of`: whose streams an MTP module is to read.
    Raises ValueError for parts that do not fit together.
    """

    tokens: Tensor
    sequences: Seq[Sequence]
    counts: Seq[int]
    wanted: Seq[int] = ()
    streams_of: Seq[int] = ()

    def __post_init__(self) -> None:
        tokens, sequences, counts = self.tokens, self.sequences, self.counts
        if tokens.dim() != 1 or len(sequences) != len(counts) or sum(counts) != len(tokens):
            raise ValueError(
                f"{list(tokens.shape)} tokens, {len(sequences)} sequences and counts {list(counts)} do not fit; "
                "expected tokens [n] with n = sum(counts) and one count for each sequence"
            )
        if not sequences:
            raise ValueError("no sequences; expected at least one")
        for name, rows in (("wanted", self.wanted), ("streams_of", self.streams_of)):
            for row in rows:
                if not 0 <= row < len(tokens):
                    raise ValueError(f"{name} row {row} is not allowed; expected 0 to {len(tokens) - 1}")

    @property
    def pool(self) -> Pool:
        """The pool of the sequences."""
        return self.sequences[0].pool


def steps_of(step: Step, most: int) -> list[tuple[slice, Step]]:
    """Returns `step` cut into steps of at most `most` tokens, each with its rows of `step`. Their `wanted` is empty."""
    steps: list[tuple[slice, Step]] = []
    spans: list[tuple[Sequence, int]] = []
    first = row = 0
    for sequence, count in zip(step.sequences, step.counts, strict=True):
        if count <= 0:
            raise ValueError(f"a count of {count} tokens is not allowed; expected 1 or more")
        while count:
            taken = min(count, first + most - row)
            spans.append((sequence, taken))
            row, count = row + taken, count - taken
            if row == first + most or row == len(step.tokens):
                sequences, counts = zip(*spans, strict=True)
                steps.append((slice(first, row), Step(step.tokens[first:row], sequences, counts)))
                first, spans = row, []
    return steps
