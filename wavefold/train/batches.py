"""Documents as batches: pieces of at most `seq_len` tokens, packed side by side, never crossing a document.

    document   BOS t t t t t t t t EOS  -->  pieces of seq_len + 1 (the last token of one is the first of the next)
    batch      piece | piece | piece | piece     each a sequence of its own: attention, compression and loss stay inside

A batch is a function of the seed and the step alone, so that a resumed run sees the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MIN_PIECE = 8
"""Tokens below which a piece is not worth a sequence of its own."""


@dataclass(frozen=True)
class PackedBatch:
    """`tokens`, `targets` [n] int64: sequences of `lengths` tokens, one after another; targets are the next tokens."""

    tokens: Tensor
    targets: Tensor
    lengths: tuple[int, ...]

    @property
    def num_pairs(self) -> int:
        """Tokens that have a target two places on, in their sequence."""
        return sum(n - 1 for n in self.lengths)

    def share(self, rank: int, size: int) -> PackedBatch:
        """One of `size` parts of about equal length, whole sequences each; a part may be empty."""
        if size == 1:
            return self
        loads, owners = [0] * size, {}
        for number in sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i]):
            owners[number] = loads.index(min(loads))
            loads[owners[number]] += self.lengths[number]
        mine = [number for number in range(len(self.lengths)) if owners[number] == rank]
        parts = [torch.cat([whole.split(self.lengths)[number] for number in mine] or [whole[:0]])
                 for whole in (self.tokens, self.targets)]  # fmt: skip
        return PackedBatch(parts[0], parts[1], tuple(self.lengths[number] for number in mine))


def cut(document: Sequence[int], seq_len: int) -> list[np.ndarray]:
    """A document's tokens in pieces of at most seq_len + 1, each beginning with the last token of the one before."""
    tokens = np.asarray(document, np.int32)
    pieces = [tokens[first : first + seq_len + 1] for first in range(0, max(1, len(tokens) - 1), seq_len)]
    return [piece for piece in pieces if len(piece) > MIN_PIECE] or pieces[:1]


def pack(pieces: Sequence[np.ndarray]) -> PackedBatch:
    """Pieces as one batch."""
    join = [torch.from_numpy(np.concatenate(part).astype(np.int64)) for part in
            ([p[:-1] for p in pieces], [p[1:] for p in pieces])]  # fmt: skip
    return PackedBatch(join[0], join[1], tuple(len(piece) - 1 for piece in pieces))


class Batches:
    """An endless, seeded order of batches of about `batch_tokens` tokens (each full but an epoch's last)."""

    def __init__(self, documents: Sequence[Sequence[int]], seq_len: int, batch_tokens: int, seed: int):
        self._pieces = [piece for document in documents for piece in cut(document, seq_len) if len(piece) > 1]
        self._batch_tokens, self._seed = batch_tokens, seed
        self.num_tokens = sum(len(piece) - 1 for piece in self._pieces)
        if self.num_tokens < seq_len:
            raise ValueError(
                f"the corpus has {self.num_tokens} tokens, fewer than one sequence; "
                f"expected at least seq_len = {seq_len}"
            )
        self._epoch, self._order = -1, [np.zeros(0, np.int64)]
        self.per_epoch = len(self._batches(0))

    def __call__(self, step: int) -> PackedBatch:
        """The batch of this step, counted from 0."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._batches(epoch)
        return pack([self._pieces[number] for number in self._order[index % len(self._order)]])

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The epoch's pieces in a random order, cut where a batch is full."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._pieces))
        sizes = np.cumsum([len(self._pieces[number]) - 1 for number in order])
        number = (sizes - 1) // self._batch_tokens
        return np.split(order, np.flatnonzero(np.diff(number)) + 1)
