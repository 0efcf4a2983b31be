"""Documents as batches: pieces of at most `seq_len` tokens, packed side by side, never crossing a document.

    document   BOS t t t t t t t t EOS  -->  pieces of seq_len + 1 (the last token of one is the first of the next)
    epoch      all pieces, in a random order
    batch      piece | piece | piece | piece     each a sequence of its own: attention, compression and loss stay inside

Batches follow each other in the epoch's order, each with as many pieces as it has room for, from one epoch into the
next. A batch is a function of documents, seed, sizes and step alone, so that a resumed run sees the same batches.
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
"""Tokens below which a document's end is not worth a sequence of its own: it gets some of the piece before it."""
ORDER = 0
"""Which random numbers: the order of pieces (`fim.CHOICE`, `fim.CUTS`: the others)."""
KEPT_EPOCHS = 3
"""Orders that are kept: a batch may end one epoch and begin another, and routing looks some steps ahead."""


@dataclass(frozen=True)
class Tokens:
    """A document or a part of one: `ids` [n] integers, and which of them are `learned` [n] bool (None: all).

    Raises ValueError for anything else, floating-point ids among it.
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
    """[n] int64: tokens of each."""
    masked: np.ndarray
    """[n] bool: which of them are not learned whole."""

    @abstractmethod
    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]  # one at a time
        """Document `number`, from 0."""

    def __len__(self) -> int:
        return len(self.lengths)


class InMemory(Documents):
    """Documents that are all here."""

    def __init__(self, documents: Iterable[Tokens | np.ndarray | Sequence[int]]):
        self._documents = [as_tokens(document) for document in documents]
        self.lengths = np.array([len(document) for document in self._documents], np.int64)
        self.masked = np.array([document.learned is not None for document in self._documents], bool)

    def __getitem__(self, number: int) -> Tokens:  # type: ignore[override]
        return self._documents[number]


def as_tokens(document: Tokens | np.ndarray | Sequence[int]) -> Tokens:
    """Plain ids as a document that is learned whole."""
    if isinstance(document, Tokens):
        return document
    return Tokens(np.asarray(document) if len(document) else np.zeros(0, np.int64))


def as_documents(documents: Sequence[Tokens | np.ndarray | Sequence[int]]) -> Documents:
    """What stores its documents elsewhere stays there; others become arrays once."""
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
        """Targets that are learned."""
        return int((self.targets != IGNORED).sum())

    @property
    def num_pairs(self) -> int:
        """Targets two places on that are learned: those of a sequence but its first. The MTP loss is their mean."""
        firsts = torch.tensor((0, *self.lengths)).cumsum(0)[:-1]
        return self.num_targets - int((self.targets[firsts] != IGNORED).sum())

    def share(self, rank: int, size: int) -> PackedBatch:
        """One of `size` parts of about equal length, whole sequences each; a part may be empty."""
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
    """Pieces of two tokens or more as one batch."""
    parts = [as_tokens(piece) for piece in pieces]
    targets = [part.ids[1:].astype(np.int64) for part in parts]
    for part, target in zip(parts, targets, strict=True):
        if part.learned is not None:
            target[~part.learned[1:]] = IGNORED
    tokens = np.concatenate([part.ids[:-1].astype(np.int64) for part in parts])
    lengths = tuple(len(part) - 1 for part in parts)
    return PackedBatch(torch.from_numpy(tokens), torch.from_numpy(np.concatenate(targets)), lengths)


def cut(document: Tokens | np.ndarray | Sequence[int], seq_len: int) -> list[Tokens]:
    """A document in pieces of at most seq_len + 1 tokens, each beginning with the last token of the one before."""
    whole = as_tokens(document)
    pieces = cut_lengths(np.array([len(whole)]), seq_len)
    return [whole.part(first, first + size + 1) for _, first, size in pieces.rows(0, len(pieces))]


def fixed_batches(
    documents: Sequence[Tokens | np.ndarray | Sequence[int]], seq_len: int, batch_tokens: int
) -> list[PackedBatch]:
    """All pieces of all documents in their order, each once: what evaluation reads.

    Raises ValueError when they hold nothing that is learned.
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
    """Where pieces lie, int64 [n] each: in which `document`, at which `first` token, with how many tokens (`size`).

    A piece has one token more, the last one's target. From `num_plain` on they are spans that get a hole (fim.py).
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
        """Those of the plain pieces for which `keep` [n] holds."""
        return Pieces(self.document[keep], self.first[keep], self.size[keep], int(keep.sum()))


def cut_lengths(lengths: np.ndarray, seq_len: int) -> Pieces:
    """The pieces of documents of these lengths: whole sequences from the beginning, then what is left.

    Where that is less than `MIN_PIECE`, it and the piece before it are shared out evenly. Every token but a document's
    first is the target of one piece.
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
    """Documents without BOS and EOS, in spans of nearly equal length that leave room for the tokens around them."""
    inner, room = lengths - 2, seq_len + 1 - SENTINELS
    numbers = -(-inner // room)
    document, number = _numbered(numbers)
    first, after = (inner[document] * at // numbers[document] for at in (number, number + 1))
    return Pieces(document, 1 + first, after - first + SENTINELS - 1, 0)


def learnable(documents: Documents, pieces: Pieces) -> Pieces:
    """Those of the plain `pieces` in which something is learned."""
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
    """All pieces in an order: `order` [n] says which comes when, `ends` [n + 1] sums the tokens of the first ones."""

    def __init__(self, pieces: Pieces, key: tuple[int, int, int], seed: int):
        self.pieces, self.key = pieces, key
        self.order = np.random.default_rng((seed, ORDER, *key[1:])).permutation(len(pieces))
        self.ends = _ends(pieces.size[self.order])


class Batches:
    """An endless, seeded order of batches: `batches(step)`, steps counted from 0.

    `size_of(step)` gives (seq_len, batch_tokens). A batch has at most `batch_tokens` tokens, or a single piece.
    Where `seq_len` changes, a new order of new pieces begins, drawn by the seed and that step; where `batch_tokens`
    changes, the order goes on. In the order of one `seq_len` every token is learned once an epoch. With `fim`, some
    documents, others in each epoch, get a hole; never those that are not learned whole.

    Where each step begins is kept (24 bytes), so any step up to the furthest one costs the same; a later one costs
    some microseconds for each step between, and an order of all pieces for each epoch between.
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
        """(stage, epoch, place in it) of each known step; a stage is named by its first step."""
        self._cut(self._sizes(0)[0])
        self.num_tokens = int(self._pieces.size.sum())
        """Tokens of an epoch of the first length, without what holes add."""

    def __call__(self, step: int) -> PackedBatch:
        """The batch of this step. Raises ValueError when `size_of` asks what the documents cannot give."""
        for known in range(len(self._begins) // 3 - 1, step):
            changes = self._sizes(known + 1)[0] != self._sizes(known)[0]
            self._begins.extend((known + 1, 0, 0) if changes else self._take(known)[1])
        parts, _ = self._take(step)
        return pack([self._read(epoch, int(at)) for epoch, start, stop in parts for at in epoch.order[start:stop]])

    def _take(self, step: int) -> tuple[list[tuple[_Epoch, int, int]], tuple[int, int, int]]:
        """The parts of orders (from, to) that make a known step, and where the next step begins."""
        stage, epoch, place = self._begins[3 * step : 3 * step + 3]
        seq_len, room = self._sizes(step)
        parts: list[tuple[_Epoch, int, int]] = []
        while room > 0:
            now = self._epoch(seq_len, stage, epoch)
            stop = _last_that_fits(now.ends, place, room)
            if stop == place and not parts:
                stop += 1  # one piece always
            if stop > place:
                parts.append((now, place, stop))
                room -= int(now.ends[stop] - now.ends[place])
            if stop < len(now.order):
                return parts, (stage, epoch, stop)
            epoch, place = epoch + 1, 0
        return parts, (stage, epoch, place)

    def _read(self, epoch: _Epoch, at: int) -> Tokens:
        """Piece `at` of the epoch's."""
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
        """An epoch's order, one of the last few or made anew."""
        key = (seq_len, stage, epoch)
        if key not in self._epochs:
            self._cut(seq_len)
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[key] = _Epoch(self._with_holes(*key), key, self._seed)
        return self._epochs[key]

    def _with_holes(self, seq_len: int, stage: int, epoch: int) -> Pieces:
        """The pieces of an epoch: plain ones, and spans of the documents that get a hole in it."""
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
        """Cut the documents to this length, unless they are."""
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


def _numbered(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pieces each document has -> of each piece, the document, and which of its pieces it is."""
    document = np.repeat(np.arange(len(numbers)), numbers)
    return document, np.arange(len(document)) - (np.cumsum(numbers) - numbers)[document]


def _ends(sizes: np.ndarray) -> np.ndarray:
    """[n] -> [n + 1]: the sums of the first 0, 1, ..., n."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))


def _last_that_fits(ends: np.ndarray, place: int, room: int) -> int:
    """Up to where pieces from `place` on have at most `room` tokens."""
    return int(np.searchsorted(ends, ends[place] + room, side="right")) - 1
