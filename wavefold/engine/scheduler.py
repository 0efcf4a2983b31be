"""Continuous batching: which requests run how many tokens in each step. Only numbers here; a runner mirrors them.

    add(request) ...  schedule() -> Plan   the runner closes, runs, samples   complete(plan, results) -> outputs
    abort(id)                              (or cancel(plan) if the step did not run)

A step serves requests in one order, by rank. Its rows are, in this order:

    decodes   one token of every running request with one token to run. None is left out.
    drafts    after a decode: guesses to be verified. They get the blocks that nobody else needs.
    prompts   the rest of `step_tokens`, by rank, of running requests and of those that are admitted now. A request
              whose answer went on by tokens that were not run (`Result.forced`) has them read like a prompt. Beside
              decodes at most `chunk_tokens`, so that no decode waits for long.

Blocks. A running request of n known tokens holds ceil(n / 128) blocks, so a prompt's blocks are taken when it is
admitted. A decode takes the next block when its token is the first of it, and the running request of last rank gives
its blocks back if none is free: it waits again, and its prompt and output are read again later. Nobody is preempted for
a request that waits: the blocks come from those that end.

Prefixes. Whoever makes the scheduler may `find` tokens of a request in a cache when it is admitted: it begins behind
them, and so does a request that was preempted. Its blocks are counted as if all were its own, those of the found tokens
too. Requests may share blocks, so fewer are in use than are counted, and whatever else a cache holds must be free as
soon as it is needed. A request that is found to go along one of lower rank, whose prompt is being read, waits for it. A
span of a prompt goes over one `mark` of its request at most, a block boundary whose state the cache takes.

Order. The effective priority of a request is priority + age / age_steps, where its age counts the steps since its
arrival, waiting or running. All ages grow alike, so two requests never change places and the order can be a number that
is fixed on arrival: rank = (arrival - priority * age_steps, number of the arrival). The first of `waiting` is admitted
before all others, or nobody is.

Bound. Let P be the highest priority in use, M the largest max_tokens, C the least room for prompts in a step, which is
the lesser of chunk_tokens and step_tokens - max_running * (1 + draft_depth), and T = ceil(128 * num_blocks / C) +
num_blocks + M. A request of priority p ends at most

    (P - p) * age_steps  +  2 * T * (N + 1)     steps after its arrival,

where N requests of lower rank have not ended after the first summand. Proof. Later arrivals have a higher rank, so from
then on only those N are ahead. Let f be the request of lowest rank. (1) If f waits, nobody else is admitted. The tokens
that running requests have yet to read lie in blocks that they hold, at most 128 * num_blocks tokens. Each step reads C
of them, or of each request those up to its second mark; of marks a request has fewer than blocks. Then each of these
requests decodes a token in every step, or is preempted. After T steps nobody else runs, so all blocks are free, `add`
has checked that f fits, and there is nobody whose prompt it could wait for. (2) If f runs, it is not preempted, since
victims are of last rank. Its prompt comes first, at most 128 * num_blocks tokens at C a step or up to a mark, then a
token a step: at most T steps. So one of the N + 1 ends in every 2 * T steps. A step that is cancelled counts for
nothing. The same proof shows that there is no deadlock.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Hashable, Sequence
from operator import attrgetter

from wavefold.engine.request import FinishReason, Output, Plan, PlannedSpan, Request, Result

BLOCK_TOKENS = 128
"""Tokens of a block, as in `cache/layout.py`, which needs torch."""
PRIORITIES = range(-100, 101)

by_rank = attrgetter("rank")


def blocks_of(num_tokens: int) -> int:
    """Returns the number of blocks of a sequence of `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_TOKENS)


Find = Callable[[Request], int | None]
"""Returns how many tokens of a request that is to be admitted are cached, fewer than it has.

None: it is better off to wait.
"""


def find_nothing(request: Request) -> int:
    """No request has tokens in a cache."""
    return 0


class Scheduler:
    """`num_blocks` of a pool are shared by at most `max_running` requests. A step has at most `step_tokens` rows.

    A step that decodes has at most `chunk_tokens` rows of prompts (None: as many as fit).
    `draft_depth`: drafts of a request in a step. The pool's rings need as many rows and one (`draft_tokens`), and a
    sequence steps back over rejected drafts (`REWIND`). `age_steps`: steps of age that are worth as much as one of
    priority. One thread calls all methods. Raises ValueError for numbers out of range.
    """

    def __init__(
        self, num_blocks: int, max_running: int, step_tokens: int, draft_depth: int = 0, age_steps: int = 64,
        chunk_tokens: int | None = None,
    ):  # fmt: skip
        chunk_tokens = step_tokens if chunk_tokens is None else chunk_tokens
        numbers = {"num_blocks": (num_blocks, 1), "max_running": (max_running, 1), "draft_depth": (draft_depth, 0)}
        for name, (value, least) in {**numbers, "age_steps": (age_steps, 1), "chunk_tokens": (chunk_tokens, 1)}.items():
            if value < least:
                raise ValueError(f"{name} = {value} is not allowed; expected {least} or more")
        decode_rows = max_running * (1 + draft_depth)
        if step_tokens <= decode_rows:
            raise ValueError(
                f"step_tokens = {step_tokens} is not allowed with max_running = {max_running} and draft_depth = "
                f"{draft_depth}; expected {decode_rows + 1} or more, so that prompts are read beside all decodes"
            )
        self.num_blocks, self.max_running, self.step_tokens = num_blocks, max_running, step_tokens
        self.draft_depth, self.age_steps, self.chunk_tokens = draft_depth, age_steps, chunk_tokens
        self.num_free = num_blocks
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        """Both in ascending order of rank."""
        self._requests: dict[Hashable, Request] = {}
        self._released: list[Request] = []
        self._plan: Plan | None = None
        self._is_planning = False
        self._aborted: list[Hashable] = []
        """Requests that were aborted while a step is planned, as when the interpreter collects a stream."""
        self._step = self._number = 0

    @property
    def idle(self) -> bool:
        """True if no request waits or runs and no sequence is to be closed: `schedule` would return an empty plan."""
        return not (self.waiting or self.running or self._released)

    # -- requests come and go --------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Adds a new request. It waits for its blocks.

        Raises ValueError for an id that is in use, numbers out of range, and a request that the pool cannot hold alone.
        """
        self._check(request)
        request.arrival, request.num_tokens = self._step, len(request.prompt)
        request.rank = self._rank(request), self._number
        self._number += 1
        self._requests[request.id] = request
        insort(self.waiting, request, key=by_rank)

    def _check(self, request: Request) -> None:
        if request.id in self._requests:
            raise ValueError(f"a request with id {request.id!r} waits or runs already; expected a new id")
        if not len(request.prompt):
            raise ValueError(f"request {request.id!r}: the prompt has no tokens; expected at least one")
        if request.max_tokens < 1:
            raise ValueError(
                f"request {request.id!r}: max_tokens = {request.max_tokens} is not allowed; expected 1 or more"
            )
        if request.priority not in PRIORITIES:
            raise ValueError(
                f"request {request.id!r}: priority = {request.priority} is not allowed; expected {PRIORITIES[0]} to "
                f"{PRIORITIES[-1]}"
            )
        if (needed := blocks_of(request.peak_tokens)) > self.num_blocks:
            raise ValueError(
                f"request {request.id!r}: {len(request.prompt)} prompt tokens and max_tokens = {request.max_tokens} "
                f"need {needed} blocks of {BLOCK_TOKENS} tokens, and the pool has {self.num_blocks}; expected at most "
                f"{self.num_blocks * BLOCK_TOKENS + 1} tokens together, or a larger pool"
            )

    def abort(self, id: Hashable) -> None:
        """Ends a request; it gives no further output. Its blocks are free at once, or at the end of the step that runs.

        An id that neither waits nor runs has ended before its abort came: nothing changes.
        """
        if self._is_planning:
            self._aborted.append(id)
            return
        request = self._requests.get(id)
        if request is None:
            return
        request.finish_reason = "abort"
        if request.state == "waiting":
            self.waiting.remove(request)
            self._forget(request)
        elif self._plan is None:
            self.running.remove(request)
            self._release(request)

    def offer(self, request: Request, drafts: Sequence[int]) -> None:
        """Takes guesses of the next tokens of a running request, for its next step: as many as may be of use."""
        left = request.max_tokens - len(request.output)
        request.drafts = drafts[: min(self.draft_depth, left - 1)]

    # -- a step ----------------------------------------------------------------------------------------------------

    def schedule(self, find: Find = find_nothing) -> Plan:
        """Returns the next step. It must be completed or cancelled before the one after it."""
        assert self._plan is None, "a plan is under way; complete or cancel it"
        self._is_planning = True
        try:
            self._plan = self._planned(find)
        finally:
            self._is_planning = False
            aborted, self._aborted = self._aborted, []
            for id in aborted:
                self.abort(id)
        return self._plan

    def _planned(self, find: Find) -> Plan:
        self._step += 1
        self._grow()
        decodes = [request for request in self.running if request.num_tokens - request.num_cached == 1]
        prompt_rows = self.step_tokens - sum(1 + len(request.drafts) for request in decodes)
        if decodes:
            prompt_rows = min(prompt_rows, self.chunk_tokens)
        prompts = [request for request in self.running if request.num_tokens - request.num_cached > 1]
        prompts = self._admit(prompts, prompt_rows, find)
        spans = [PlannedSpan(request, request.num_cached, 1, True, self._drafts(request)) for request in decodes]
        for request in prompts:
            if not prompt_rows:
                break
            count = min(request.readable, prompt_rows)
            prompt_rows -= count
            is_last = count == request.num_tokens - request.num_cached
            spans.append(PlannedSpan(request, request.num_cached, count, is_last))
        released, self._released = self._released, []
        return Plan(spans, released)

    def complete(self, plan: Plan, results: Sequence[Result | None]) -> list[Output]:
        """Ends a step that ran. `results` has a Result for each wanted span, None for the others.

        Returns the new tokens of all wanted spans whose requests were not aborted meanwhile.
        """
        self._end(plan)
        outputs = []
        for span, result in zip(plan.spans, results, strict=True):
            request = span.request
            if request.finish_reason is not None:  # aborted while the step ran
                continue
            if result is None:
                assert not span.wanted, "a wanted span has no result"
                request.num_cached += span.num_tokens
                continue
            reason = self._take(request, span, result)
            outputs.append(Output(request, result.tokens, reason))
        self._drop_finished()
        return outputs

    def cancel(self, plan: Plan, lost: Collection[Request] = ()) -> None:
        """Ends a step that did not run, after an error or an interruption: no request has its tokens.

        The sequences of its `released` are closed all the same. Requests whose sequences are no longer as they were
        before the step are `lost`: those that run are preempted.
        """
        self._end(plan)
        for span in plan.spans:
            self._hold(span.request, blocks_of(span.request.num_tokens))
        self._drop_finished()
        for request in lost:
            if request.state == "running":
                self.running.remove(request)
                self._preempt(request)

    # -- parts of a step -------------------------------------------------------------------------------------------

    def _rank(self, request: Request) -> int:
        return request.arrival - request.priority * self.age_steps

    def _grow(self) -> None:
        """Gives each running request the block of its next token. Requests of last rank are preempted for it."""
        number = 0
        while number < len(self.running):
            request = self.running[number]
            needed = blocks_of(request.num_tokens)
            if needed - request.num_blocks <= self.num_free:
                self._hold(request, needed)
                number += 1
            else:
                self._preempt(self.running.pop())

    def _preempt(self, request: Request) -> None:
        self._free(request)
        request.state, request.num_cached, request.drafts = "waiting", 0, ()
        request.num_preemptions += 1
        self._released.append(request)
        insort(self.waiting, request, key=by_rank)

    def _admit(self, prompts: list[Request], rows: int, find: Find) -> list[Request]:
        """Returns `prompts`, running requests with a prompt to read, and those admitted to share `rows`, by rank."""
        while self.waiting and len(self.running) < self.max_running:
            request = self.waiting[0]
            ahead = sum(other.readable for other in prompts if other.rank < request.rank)
            if blocks_of(request.num_tokens) > self.num_free or ahead >= rows:
                break
            if (num_cached := find(request)) is None:
                break
            assert 0 <= num_cached < request.num_tokens, "the last token's logits are not cached"
            del self.waiting[0]
            request.num_cached = num_cached
            self._hold(request, blocks_of(request.num_tokens))
            request.state = "running"
            insort(self.running, request, key=by_rank)
            insort(prompts, request, key=by_rank)
        return prompts

    def _drafts(self, request: Request) -> Sequence[int]:
        """Returns the drafts of a decode that the free blocks hold, and takes these blocks."""
        drafts = request.drafts
        if drafts:
            room = (request.num_blocks + self.num_free) * BLOCK_TOKENS - request.num_tokens
            drafts = drafts[:room]
            self._hold(request, blocks_of(request.num_tokens + len(drafts)))
        return drafts

    def _take(self, request: Request, span: PlannedSpan, result: Result) -> FinishReason | None:
        """Appends a result to its request, which gives the blocks of rejected drafts back. Returns why it ended."""
        least = 0 if result.finish else 1
        chosen = len(result.tokens) - result.forced
        assert span.wanted and least <= chosen <= 1 + len(span.drafts), "tokens do not fit the span"
        request.output += result.tokens
        request.num_tokens += len(result.tokens)
        left = request.max_tokens - len(request.output)
        request.finish_reason = result.finish or ("length" if not left else None)
        if request.finish_reason is None:
            request.num_cached = request.num_tokens - 1 - result.forced
            self.offer(request, () if result.forced else result.drafts)
            self._hold(request, blocks_of(request.num_cached))
        return request.finish_reason

    def _end(self, plan: Plan) -> None:
        assert plan is self._plan, "this plan is not the one under way"
        self._plan = None

    def _drop_finished(self) -> None:
        if any(request.finish_reason for request in self.running):
            for request in self.running:
                if request.finish_reason:
                    self._release(request)
            self.running = [request for request in self.running if not request.finish_reason]

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _hold(self, request: Request, num_blocks: int) -> None:
        """The request holds `num_blocks` from now on."""
        self.num_free -= num_blocks - request.num_blocks
        request.num_blocks = num_blocks
        assert self.num_free >= 0, "more blocks are held than there are"

    def _free(self, request: Request) -> None:
        self._hold(request, 0)

    def _release(self, request: Request) -> None:
        """The request has ended. The next plan tells the runner to close its sequence."""
        self._free(request)
        self._released.append(request)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        request.state, request.drafts = "finished", ()
        del self._requests[request.id]
