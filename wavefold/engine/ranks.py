"""Passes over ranks: rank 0 schedules, samples and answers; it tells the others of each pass before it runs it.

    rank 0    Runner -> Leader.telling -> forward_step       other ranks    follow: receive -> the same forward_step

A message is two broadcasts of int64: a header, and as many words as it says. A follower opens a sequence that it has
not seen, steps back to where a span begins, closes what it is told to, and asks for no logits.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from wavefold.cache import Pool
from wavefold.cache import Sequence as Cached
from wavefold.engine.request import PlannedSpan, Request
from wavefold.engine.rows import StepRows
from wavefold.model import Step, Transformer
from wavefold.system import Notice
from wavefold.waves.faults import PassFailed
from wavefold.waves.transport import RankLost

PASS, END = 1, 2
MAGIC = 0x57415645
MOST_WORDS = 1 << 24
"""Of a message: a header with more was not written here."""
SILENCE = timedelta(days=365)
"""How long rank 0 may have nothing to do. A process that dies is noticed by its connection; a machine that loses its
power or its network is not, before the next pass."""


class Message(NamedTuple):
    """`pool`: tokens of a new pool, 0 to keep the one that is there; `drafts`: its `draft_tokens`.

    `spans`: (number of the sequence, its tokens before the pass, new tokens) of each, then all their `tokens`.
    """

    kind: int
    pool: int = 0
    drafts: int = 1
    closed: Sequence[int] = ()
    spans: Sequence[tuple[int, int, int]] = ()
    tokens: Sequence[int] = ()

    def words(self) -> tuple[Tensor, Tensor]:
        """Returns the header and the words after it."""
        words = [*self.closed, *(word for span in self.spans for word in span), *self.tokens]
        header = [MAGIC, self.kind, self.pool, self.drafts, len(self.closed), len(self.spans), len(self.tokens)]
        return torch.tensor(header), torch.tensor(words, dtype=torch.int64)

    @classmethod
    def of(cls, header: list[int], words: list[int]) -> Message:
        kind, pool, drafts, closed, spans = header[1:6]
        ends = closed, closed + 3 * spans
        parts = words[: ends[0]], words[ends[0] : ends[1]], words[ends[1] :]
        triples = [(parts[1][i], parts[1][i + 1], parts[1][i + 2]) for i in range(0, 3 * spans, 3)]
        return cls(kind, pool, drafts, parts[0], triples, parts[2])


def quiet_group() -> dist.ProcessGroup:
    """Returns a group of all ranks that waits for a message as long as it takes. All ranks call this together."""
    return dist.new_group(backend="gloo", timeout=SILENCE)


class Leader:
    """Rank 0's side: it numbers the sequences of requests."""

    def __init__(self, group: dist.ProcessGroup):
        self._group = group
        self._numbers: dict[Request, int] = {}
        self._next = 0
        self._closed: list[int] = []
        self._pool = 0, 1
        self._interrupted = ""
        """What ended a pass on this rank alone, if one was."""

    def new_pool(self, num_tokens: int, draft_tokens: int) -> None:
        """From the next pass on, sequences are in a new pool."""
        self._pool = num_tokens, draft_tokens
        self._numbers.clear()
        self._closed.clear()

    def close(self, request: Request) -> None:
        """The request has no sequence any more."""
        if (number := self._numbers.pop(request, None)) is not None:
            self._closed.append(number)

    @contextlib.contextmanager
    def telling(self, spans: Sequence[PlannedSpan], rows: StepRows) -> Iterator[None]:
        """A pass that the others are told of, with the rows of its spans.

        What ends it on this rank alone leaves the others inside, and messages of another pass would meet theirs: from
        then on RankLost is raised.
        """
        if self._interrupted:
            raise RankLost(
                f"a pass ended on rank 0 alone ({self._interrupted}), and the other ranks are still in it; start all "
                "ranks again"
            )
        self._tell(spans, rows)
        try:
            yield
        except PassFailed:  # on all ranks
            raise
        except BaseException as error:
            self._interrupted = type(error).__name__
            raise

    def _tell(self, spans: Sequence[PlannedSpan], rows: StepRows) -> None:
        numbered = []
        for span, count in zip(spans, rows.counts, strict=True):
            if span.request not in self._numbers:
                self._numbers[span.request] = self._next
                self._next += 1
            numbered.append((self._numbers[span.request], span.first, count))
        self._send(Message(PASS, *self._pool, self._closed, numbered, rows.tokens))
        self._closed, self._pool = [], (0, 1)

    def end(self) -> None:
        """Tells the others that there will be no more passes. Those that are still in one see this rank's end."""
        if not self._interrupted:
            self._send(Message(END))

    def _send(self, message: Message) -> None:
        header, words = message.words()
        _broadcast(header, self._group)
        if len(words):
            _broadcast(words, self._group)


def follow(model: Transformer, group: dist.ProcessGroup) -> None:
    """Runs the passes that rank 0 tells of, until it says that there are no more.

    A pass that failed on all ranks is told in a Notice, and the next one is awaited: rank 0 ends its requests or tries
    again.
    Raises RankLost if it is gone, ValueError for a message that cannot be one, and what a pass raises.
    """
    pool: Pool | None = None
    sequences: dict[int, Cached] = {}
    while (message := _receive(group)).kind == PASS:
        if message.pool:
            sequences.clear()
            pool = model.new_pool(message.pool, draft_tokens=message.drafts)
        assert pool is not None
        for number in message.closed:
            sequences.pop(number).close()
        for number, first, _ in message.spans:
            if number not in sequences:
                sequences[number] = pool.open()
            if behind := sequences[number].num_tokens - first:
                sequences[number].rewind(behind)
        chosen = [sequences[number] for number, _, _ in message.spans]
        try:
            model.forward_step(Step(torch.tensor(message.tokens), chosen, [count for _, _, count in message.spans]))
        except PassFailed as error:
            warnings.warn(f"a pass failed on all ranks: {error}", Notice, stacklevel=2)


def _receive(group: dist.ProcessGroup) -> Message:
    header = torch.zeros(7, dtype=torch.int64)
    _broadcast(header, group)
    magic, kind, _, _, *counts = header.tolist()
    num_words = counts[0] + 3 * counts[1] + counts[2]
    if magic != MAGIC or kind not in (PASS, END) or min(counts) < 0 or num_words > MOST_WORDS:
        raise ValueError(
            f"rank 0 sent a header of {header.tolist()}; expected the same version of wavefold on all ranks"
        )
    words = torch.zeros(num_words, dtype=torch.int64)
    if num_words:
        _broadcast(words, group)
    return Message.of(header.tolist(), words.tolist())


def _broadcast(words: Tensor, group: dist.ProcessGroup) -> None:
    try:
        dist.broadcast(words, 0, group)
    except RuntimeError:
        other = "another rank" if dist.get_rank() == 0 else "rank 0"
        raise RankLost(f"{other} was lost between two passes; expected the cause in its own output") from None
