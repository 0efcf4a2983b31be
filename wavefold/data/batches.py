"""Documents as batches: pieces of at most `seq_len` tokens, packed side by side, never crossing a document.

    document   BOS t t t t t t t t EOS  -->  pieces of seq_len + 1 (the last token of one is the first of the next)
    epoch      all pieces, in a random order
    batch      piece | piece | piece | piece     attention, compression and loss never cross the border of a piece

Batches follow the order of the epoch and go on into the next one. A batch takes as many pieces as it has room for. It
is a function of documents, seed, sizes and step alone, so a resumed run sees the same batches.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavefold.data.fim import SENTINELS, FillInMiddle

IGNORED = -100
"""A target that is not learned."""
MIN_PIECE = 8
"""Smallest piece, in tokens. A shorter end of a document shares the tokens of the piece before it."""
ORDER = 0
"""Random stream id for the order of pieces. The other streams are `fim.CHOICE` and `fim.CUTS`."""
KEPT_EPOCHS = 3
"""Epochs whose order is cached: a batch may span two epochs, and anticipatory routing looks some steps ahead."""


@dataclass(frozen=True)
class Tokens:
    """A document or a part of one. `ids`: integers [n]. `learned`: bool [n], True for ids that are learned (None: all).

    Raises ValueError for other dtypes or shapes.
    """

    ids: np.ndarray
    learned: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise ValueError(f"ids of {self.ids.dtype} {self.ids.shape} are not allowed; expected integers [n]")
        if self.learned is not None and (self.learned.shape != self.ids.shape or self.learned.dtype != bool):
            raise ValueError(
                f"learned of {self.learned.dtype} {self.learned.shape} is not allowed beside ids {self.ids.shape}; "
                "expected a bool for each id"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, stop: int) -> Tokens:
        """The tokens from `first` up to `stop`, a view."""
        return Tokens(self.ids[first:stop], None if self.learned is None else self.learned[first:stop])


class Documents(Sequence[Tokens]):
    """Documents whose lengths are known without reading them; an item is read when it is asked for."""

    lengths: np.ndarray
    """[n] int64: tokens of each document."""
    masked: np.ndarray
    """[n] bool: True for a document with tokens that are not learned."""

    @abstractmethod
    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]  # one at a time
        """Document `number`, from 0."""

    def __len__(self) -> int:
        return len(self.lengths)


class InMemory(Documents):
    """Documents that are held in memory."""

    def __init__(self, documents: Iterable[Tokens | np.ndarray | Sequence[int]]):
        self._documents = [as_tokens(document) for document in documents]
        self.lengths = np.array([len(document) for document in self._documents], np.int64)
        self.masked = np.array([document.learned is not None for document in self._documents], bool)

    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]
        return self._documents[number]


def as_tokens(document: Tokens | np.ndarray | Sequence[int]) -> Tokens:
    """Returns plain ids as a document in which every token is learned."""
    if isinstance(document, Tokens):
        return document
    return Tokens(np.asarray(document) if len(document) else np.zeros(0, np.int64))


def as_documents(documents: Sequence[Tokens | np.ndarray | Sequence[int]]) -> Documents:
    """Returns `documents` if they are `Documents`, else a copy in memory as arrays."""
    return documents if isinstance(documents, Documents) else InMemory(documents)


@dataclass(frozen=True)
class PackedBatch:
    """`tokens`, `targets` [n] int64: sequences of `lengths` tokens, one after another.

    Targets are the next tokens, or `IGNORED` where they are not learned.
    """

    tokens: Tensor
    targets: Tensor
    lengths: tuple[int, ...]

    @property
    def num_targets(self) -> int:
        """Number of learned targets."""
        return int((self.targets != IGNORED).sum())

    @property
    def num_pairs(self) -> int:
        """Number of learned targets two positions ahead (all but the first of a sequence), as the MTP loss counts."""
        firsts = torch.tensor((0, *self.lengths)).cumsum(0)[:-1]
        return self.num_targets - int((self.targets[firsts] != IGNORED).sum())

    def share(self, rank: int, size: int) -> PackedBatch:
        """Returns part `rank` of `size` parts of about equal length, in whole sequences. A part may be empty."""
        if size == 1:
            return self
        loads, owners = [0] * size, {}
        for number in sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i]):
            owners[number] = loads.index(min(loads))
            loads[owners[number]] += self.lengths[number]
        local = [number for number in range(len(self.lengths)) if owners[number] == rank]
        parts = [torch.cat([whole.split(self.lengths)[number] for number in local] or [whole[:0]])
                 for whole in (self.tokens, self.targets)]  # fmt: skip
        return PackedBatch(parts[0], parts[1], tuple(self.lengths[number] for number in local))


def pack(pieces: Sequence[Tokens | np.ndarray]) -> PackedBatch:
    """Packs pieces of at least two tokens into one batch."""
    parts = [as_tokens(piece) for piece in pieces]
    targets = [part.ids[1:].astype(np.int64) for part in parts]
    for part, target in zip(parts, targets, strict=True):
        if part.learned is not None:
            target[~part.learned[1:]] = IGNORED
    tokens = np.concatenate([part.ids[:-1].astype(np.int64) for part in parts])
    lengths = tuple(len(part) - 1 for part in parts)
    return PackedBatch(torch.from_numpy(tokens), torch.from_numpy(np.concatenate(targets)), lengths)


def cut(document: Tokens | np.ndarray | Sequence[int], seq_len: int) -> list[Tokens]:
    """Cuts a document into pieces of at most seq_len + 1 tokens. Neighbouring pieces share one token."""
    whole = as_tokens(document)
    pieces = cut_lengths(np.array([len(whole)]), seq_len)
    return [whole.part(first, first + size + 1) for _, first, size in pieces.rows(0, len(pieces))]


def fixed_batches(
    documents: Sequence[Tokens | np.ndarray | Sequence[int]], seq_len: int, batch_tokens: int
) -> list[PackedBatch]:
    """Returns all pieces of all documents, in order, each once. Evaluation reads them.

    Raises ValueError if no token in them is learned.
    """
    read = as_documents(documents)
    pieces = learnable(read, cut_lengths(read.lengths, seq_len))
    if not len(pieces):
        raise ValueError(f"{len(read)} documents hold no token to be learned; expected one of two tokens at least")
    ends = _ends(pieces.size)
    batches, place = [], 0
    while place < len(pieces):
        stop = max(place + 1, _last_that_fits(ends, place, batch_tokens))
        rows = pieces.rows(place, stop)
        batches.append(pack([read[number].part(first, first + size + 1) for number, first, size in rows]))
        place = stop
    return batches


@dataclass(frozen=True)
class Pieces:
    """Places of pieces, int64 [n]: number of the `document`, its `first` token, number of tokens (`size`).

    A piece has one token more than `size`: the last target. Pieces from `num_plain` on are spans that get a hole
    (fim.py).
    """

    document: np.ndarray
    first: np.ndarray
    size: np.ndarray
    num_plain: int

    def __len__(self) -> int:
        return len(self.size)

    def rows(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(document, first, size) of pieces `start` up to `stop`."""
        parts = (part[start:stop].tolist() for part in (self.document, self.first, self.size))
        return list(zip(*parts, strict=True))

    def where(self, keep: np.ndarray) -> Pieces:
        """Returns the plain pieces for which `keep` [n] is True."""
        return Pieces(self.document[keep], self.first[keep], self.size[keep], int(keep.sum()))


def cut_lengths(lengths: np.ndarray, seq_len: int) -> Pieces:
    """Returns the pieces of documents of these lengths: full sequences from the beginning, then the rest.

    A rest below `MIN_PIECE` and the piece before it are split evenly. Every token but the first of a document is a
    target in exactly one piece.
    """
    pairs = np.maximum(lengths - 1, 0)
    whole, rest = np.divmod(pairs, seq_len)
    numbers = whole + (rest > 0)
    document, number = _numbered(numbers)
    first = number * seq_len
    short = (rest > 0) & (rest < MIN_PIECE) & (whole > 0)
    first[np.cumsum(numbers)[short] - 1] -= (seq_len - rest[short]) // 2
    after = np.append(first[1:], 0)
    size = np.where(number == numbers[document] - 1, pairs[document], after) - first
    return Pieces(document, first, size, len(size))


def cut_spans(lengths: np.ndarray, seq_len: int) -> Pieces:
    """Cuts documents, without BOS and EOS, into spans of nearly equal length. `SENTINELS` tokens fit around a span."""
    inner, room = lengths - 2, seq_len + 1 - SENTINELS
    numbers = -(-inner // room)
    document, number = _numbered(numbers)
    first, after = (inner[document] * at // numbers[document] for at in (number, number + 1))
    return Pieces(document, 1 + first, after - first + SENTINELS - 1, 0)


def learnable(documents: Documents, pieces: Pieces) -> Pieces:
    """Returns the plain `pieces` that have a learned target."""
    keep = np.ones(len(pieces), bool)
    for number in np.flatnonzero(documents.masked):
        learned = documents[int(number)].learned
        assert learned is not None
        before = _ends(learned)
        local = slice(*np.searchsorted(pieces.document, (number, number + 1)))
        first, size = pieces.first[local], pieces.size[local]
        keep[local] = before[first + size + 1] > before[first + 1]
    return pieces.where(keep)


class _Epoch:
    """Shuffled pieces of an epoch. `order` [n]: piece numbers. `ends` [n + 1]: cumulative tokens in that order."""

    def __init__(self, pieces: Pieces, key: tuple[int, int, int], seed: int):
        self.pieces, self.key = pieces, key
        self.order = np.random.default_rng((seed, ORDER, *key[1:])).permutation(len(pieces))
        self.ends = _ends(pieces.size[self.order])


class Batches:
    """An endless, seeded order of batches: `batches(step)`, steps counted from 0.

    `size_of(step)` returns (seq_len, batch_tokens). A batch has at most `batch_tokens` tokens, or a single piece. When
    `seq_len` changes, the documents are cut anew and a new order begins, drawn by the seed and that step. When
    `batch_tokens` changes, the order goes on. Within one `seq_len` every token is learned once an epoch. With `fim`,
    some documents get a hole, chosen anew in each epoch. Documents with `learned` marks never get one.

    The place where a step begins is kept (24 bytes), so every step up to the furthest one costs the same. A later step
    costs some microseconds for each step between, and an order of all pieces for each epoch between.
    """

    def __init__(
        self,
        documents: Sequence[Tokens | np.ndarray | Sequence[int]],
        seed: int,
        size_of: Callable[[int], tuple[int, int]],
        fim: FillInMiddle | None = None,
    ):
        self._documents = as_documents(documents)
        self._seed, self._size_of, self._fim = seed, size_of, fim
        self._seq_len = 0
        self._epochs: dict[tuple[int, int, int], _Epoch] = {}
        self._begins = array("q", (0, 0, 0))
        """(stage, epoch, place in the epoch) of each known step. A stage is named by its first step."""
        self._cut(self._sizes(0)[0])
        self.num_tokens = int(self._pieces.size.sum())
        """Tokens of an epoch at the first length, without the tokens that holes add."""

    def __call__(self, step: int) -> PackedBatch:
        """Returns the batch of this step. Raises ValueError for sizes that the documents cannot fill."""
        for known in range(len(self._begins) // 3 - 1, step):
            changes = self._sizes(known + 1)[0] != self._sizes(known)[0]
            self._begins.extend((known + 1, 0, 0) if changes else self._take(known)[1])
        parts, _ = self._take(step)
        return pack([self._read(epoch, int(at)) for epoch, start, stop in parts for at in epoch.order[start:stop]])

    def _take(self, step: int) -> tuple[list[tuple[_Epoch, int, int]], tuple[int, int, int]]:
        """Returns the parts (epoch, start, stop) of a known step, and the place where the next step begins."""
        stage, epoch, place = self._begins[3 * step : 3 * step + 3]
        seq_len, room = self._sizes(step)
        parts: list[tuple[_Epoch, int, int]] = []
        while room > 0:
            now = self._epoch(seq_len, stage, epoch)
            stop = _last_that_fits(now.ends, place, room)
            if stop == place and not parts:
                stop += 1  # a batch has at least one piece
            if stop > place:
                parts.append((now, place, stop))
                room -= int(now.ends[stop] - now.ends[place])
            if stop < len(now.order):
                return parts, (stage, epoch, stop)
            epoch, place = epoch + 1, 0
        return parts, (stage, epoch, place)

    def _read(self, epoch: _Epoch, at: int) -> Tokens:
        """Reads piece `at` of an epoch."""
        pieces = epoch.pieces
        number, first, size = int(pieces.document[at]), int(pieces.first[at]), int(pieces.size[at])
        document = self._documents[number]
        if at < pieces.num_plain:
            return document.part(first, first + size + 1)
        fim = self._fim
        assert fim is not None
        if document.ids[0] != fim.bos or document.ids[-1] != fim.eos:
            raise ValueError(
                f"document {number} is {document.ids[0]} ... {document.ids[-1]}, and cannot get a hole; expected BOS "
                f"{fim.bos} at its beginning and EOS {fim.eos} at its end (or fim_rate = 0)"
            )
        span = document.ids[first : first + size + 1 - SENTINELS]
        return Tokens(fim.rearrange(span, (self._seed, *epoch.key[1:], number, first)))

    def _epoch(self, seq_len: int, stage: int, epoch: int) -> _Epoch:
        """Returns the order of an epoch, from the cache or drawn anew."""
        key = (seq_len, stage, epoch)
        if key not in self._epochs:
            self._cut(seq_len)
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[key] = _Epoch(self._with_holes(*key), key, self._seed)
        return self._epochs[key]

    def _with_holes(self, seq_len: int, stage: int, epoch: int) -> Pieces:
        """Returns the pieces of an epoch: plain ones, and spans of the documents that get a hole."""
        if self._fim is None:
            return self._pieces
        if seq_len + 1 < SENTINELS + MIN_PIECE:
            raise ValueError(
                f"seq_len = {seq_len} is not allowed with fim_rate > 0; expected {SENTINELS + MIN_PIECE - 1} or more"
            )
        documents, plain = self._documents, self._pieces
        holes = self._fim.choose(self._seed, stage, epoch, len(documents))
        holes &= ~documents.masked & (documents.lengths >= 2 + MIN_PIECE)
        plain = plain.where(~holes[plain.document])
        numbers = np.flatnonzero(holes)
        spans = cut_spans(documents.lengths[numbers], seq_len)
        return Pieces(
            np.concatenate((plain.document, numbers[spans.document])), np.concatenate((plain.first, spans.first)),
            np.concatenate((plain.size, spans.size)), plain.num_plain,
        )  # fmt: skip

    def _cut(self, seq_len: int) -> None:
        """Cuts the documents to this length, if it is a new one."""
        if seq_len == self._seq_len:
            return
        self._pieces = learnable(self._documents, cut_lengths(self._documents.lengths, seq_len))
        self._seq_len = seq_len
        num_tokens = int(self._pieces.size.sum())
        if num_tokens < seq_len:
            raise ValueError(
                f"the corpus has {num_tokens} tokens, fewer than one sequence; expected at least seq_len = {seq_len}"
            )

    def _sizes(self, step: int) -> tuple[int, int]:
        seq_len, batch_tokens = self._size_of(step)
        if seq_len < 1 or batch_tokens < 1:
            raise ValueError(
                f"seq_len = {seq_len}, batch_tokens = {batch_tokens} of step {step} are not allowed; expected 1 or more"
            )
        return seq_len, batch_tokens


class InTurn:
    """Batches of documents, and from step `first` on of others. `parts`: one or both; each counts its steps from 0."""

    def __init__(self, parts: Sequence[Callable[[int], PackedBatch]], first: int):
        self._parts, self._first = parts, first

    def __call__(self, step: int) -> PackedBatch:
        """Returns the batch of this step."""
        return self._parts[0](step) if step < self._first else self._parts[1](step - self._first)


def _numbered(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of pieces of each document -> for each piece its document and its number in the document."""
    document = np.repeat(np.arange(len(numbers)), numbers)
    return document, np.arange(len(document)) - (np.cumsum(numbers) - numbers)[document]


def _ends(sizes: np.ndarray) -> np.ndarray:
    """[n] -> [n + 1]: sums of the first 0, 1, ..., n sizes."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))


def _last_that_fits(ends: np.ndarray, place: int, room: int) -> int:
    """Returns the largest end such that the pieces from `place` up to it have at most `room` tokens."""
    return int(np.searchsorted(ends, ends[place] + room, side="right")) - 1
