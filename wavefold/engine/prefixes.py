"""Requests and the prefix cache: where a prompt is opened, where its marks are, what is kept of it and when.

    admitted      open: the longest cached beginning, in memory or on disk          a prompt whose beginning another
    a mark        keep: every `snapshot_every` tokens, and where texts part         request is reading waits for it
    prompt read   keep: a copy of the state
    ended         take: the sequence's own state, of answers, of what is cancelled or preempted

A pass that goes over a mark leaves the state of that place, from rows that it computes anyway, and is not cut there.

A prompt's last token is always run: its logits are not cached. Nor are those of tokens whose log probabilities are
wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wavefold.cache import BLOCK_TOKENS, REWIND, CacheLayout, Chain, Pool, PrefixCache, Space, Tip, adapter_root
from wavefold.cache import Sequence as Cached
from wavefold.engine.request import Request
from wavefold.engine.rows import adapter_of, answer_of, known_parts

SNAPSHOT_EVERY = 2048
LEAST_GAIN = 32
"""A state is worth its bytes if it saves so many tokens."""
PARTS = 8
"""A state beside those of every so many tokens is worth its bytes if it saves an eighth of their distance."""


def nowhere(layout: CacheLayout) -> tuple[bytes, Space | None]:
    """Nothing outlives the process."""
    return b"", None


@dataclass(frozen=True)
class Keeping:
    """What is kept: at most `max_states` states, 1 or more, one for every `snapshot_every` tokens of a prompt.

    That is a multiple of 128. `space_of`: the root of keys for a layout, and what outlives the process.
    """

    max_states: int
    snapshot_every: int = SNAPSHOT_EVERY
    space_of: Callable[[CacheLayout], tuple[bytes, Space | None]] = nowhere


@dataclass(eq=False)
class _Text:
    """A request's text. `begun`: the tokens that it was opened with; `kept`: where its last state was taken."""

    chain: Chain
    begun: int = 0
    kept: int = 0
    crossed: Tip | None = None
    """The tip at the last block boundary that its answer went over, for the disk."""


class Prefixes:
    """The cache of a runner's pool. The runner calls it under its lock, with sequences that are between two passes."""

    def __init__(self, pool: Pool, keeping: Keeping):
        root, space = keeping.space_of(pool.layout)
        self.cache = PrefixCache(pool, keeping.max_states, root, space)
        self._every, self._on_disk = keeping.snapshot_every, space is not None
        self._texts: dict[Request, _Text] = {}

    # -- before a prompt is read -------------------------------------------------------------------------------------

    def waits(self, request: Request, running: Sequence[Request]) -> bool:
        """True if a running request of lower rank will soon have read more of this prompt than is cached."""
        chain, limit = self._text(request).chain, self._limit(request)
        leaders = [
            other for other in running
            if other.rank < request.rank and other.num_tokens - other.num_cached > 1 and other in self._texts
        ]  # fmt: skip
        gains = [(other, self._promised(other, chain, limit)) for other in leaders]
        gains = [(other, gain) for other, gain in gains if gain > other.num_cached]
        if not gains:
            return False
        least = self.cache.find(chain, limit).num_tokens + LEAST_GAIN
        return any(gain >= least for _, gain in gains)

    def _promised(self, other: Request, chain: Chain, limit: int) -> int:
        """Returns the tokens of `chain` that can be opened once another request's prompt has been read.

        It gets a mark where the two part, if that is far behind the mark before.
        """
        ahead = self._texts[other].chain
        common = min(chain.common(ahead), limit)
        if len(ahead) - common <= REWIND:
            return common
        mark = max((mark for mark in other.marks if mark <= common), default=0)
        parts = common // BLOCK_TOKENS * BLOCK_TOKENS
        if parts > other.num_cached and parts - max(mark, other.num_cached) >= self._every // PARTS:
            other.marks, mark = sorted((*other.marks, parts)), parts
        return mark

    def open(self, request: Request) -> Cached | None:
        """Returns a sequence with the tokens of a request that are cached, or None. Sets the request's marks.

        The first time, its answer's usage says what was found.
        """
        text, limit = self._text(request), self._limit(request)
        sequence, on_disk, shared = self.cache.open(text.chain, limit)
        text.begun = text.kept = 0 if sequence is None else sequence.num_tokens
        text.crossed = None
        answer = answer_of(request)
        if not request.num_preemptions:
            found = {"cached_tokens": text.begun - on_disk, "disk_tokens": on_disk, "left_chain_at": shared}
            answer.usage = replace(answer.usage, **found)
        request.marks = self._marks(request, text.begun, min(shared, limit) // BLOCK_TOKENS * BLOCK_TOKENS)
        return sequence

    def _text(self, request: Request) -> _Text:
        if (text := self._texts.get(request)) is None:
            text = self._texts[request] = _Text(Chain(self._root(request)))
        for part in known_parts(request, len(text.chain), request.num_tokens):
            text.chain.extend(part)
        return text

    def _root(self, request: Request) -> bytes:
        """Returns the root of a request's text: what one adapter reads is of no use to others."""
        adapter = adapter_of(request)
        return self.cache.root if adapter is None else adapter_root(self.cache.root, adapter.digest)

    def _limit(self, request: Request) -> int:
        """Returns the number of tokens whose logits nobody wants."""
        next_scored = answer_of(request).next_scored
        return request.num_tokens - 1 if next_scored is None else min(request.num_tokens, next_scored) - 1

    def _marks(self, request: Request, begun: int, parts: int) -> list[int]:
        """Returns where states of a prompt are kept: every so many tokens, where it leaves a cached text, at its end.

        The last two only where they are worth their bytes. The end: what is inside a block is not on the disk.
        """
        every, end = self._every, request.num_tokens
        marks = list(range(begun // every * every + every, end, every))
        last = (end - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        for place in (parts, *((last,) if self._on_disk else ())):
            before = max((mark for mark in (begun, *marks) if mark <= place), default=begun)
            if place - before >= every // PARTS and place < end:
                marks = sorted((*marks, place))
        return marks

    # -- a pass ------------------------------------------------------------------------------------------------------

    def mark(self, request: Request, sequence: Cached) -> None:
        """A span of the request is about to be run: it leaves the state of the next mark, if it goes over it."""
        sequence.mark = next((mark for mark in request.marks if mark > sequence.num_tokens), 0)

    def passed(self, request: Request, sequence: Cached, is_read: bool) -> None:
        """A span of the request is in its sequence. `is_read`: with it, its prompt."""
        text, num_tokens = self._texts[request], sequence.num_tokens
        self._keep_marked(request, sequence)
        if num_tokens in request.marks or (is_read and num_tokens - text.kept >= LEAST_GAIN):
            self._keep(request, sequence, sequence.tip(num_tokens))
        elif self._on_disk and not is_read and num_tokens > len(request.prompt):
            boundary = num_tokens // BLOCK_TOKENS * BLOCK_TOKENS
            last = text.crossed.num_tokens if text.crossed else text.kept
            if boundary > last and sequence.reaches(boundary):
                text.crossed = sequence.tip(boundary)

    def end(self, request: Request, sequence: Cached) -> None:
        """Closes the sequence of a request that has ended or was preempted. Its tokens stay cached."""
        text = self._texts[request]
        num_tokens = min(sequence.num_tokens, request.num_tokens)
        try:
            self._keep_marked(request, sequence)
            crossed = text.crossed
            # an abort amid a step comes before the step's tokens are the request's
            if crossed and text.kept + LEAST_GAIN <= crossed.num_tokens <= num_tokens:
                self._keep(request, sequence, crossed)
            text.crossed = None
            if num_tokens - text.kept >= LEAST_GAIN and sequence.reaches(num_tokens):
                self._keep(request, sequence, sequence.tip(num_tokens, copied=False))
                sequence.leave()
                self.cache.pool.prepare()
            else:
                sequence.close()
        finally:
            if not sequence.closed:
                sequence.leave()  # its state may be the cache's already

    def _keep_marked(self, request: Request, sequence: Cached) -> None:
        marked, sequence.marked = sequence.marked, None
        if marked is not None:
            self._keep(request, sequence, marked)

    def _keep(self, request: Request, sequence: Cached, tip: Tip) -> None:
        text = self._text(request)
        self.cache.keep(sequence, text.chain, tip)
        text.kept = max(text.kept, tip.num_tokens)

    def distrust(self, request: Request) -> None:
        """What the request has computed is wrong: none of it stays cached."""
        text = self._texts[request]
        self.cache.forget(text.chain, text.begun)

    def forget(self, request: Request) -> None:
        """The request has ended, and has no sequence."""
        self._texts.pop(request, None)
