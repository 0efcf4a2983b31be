"""The runner: requests in, one pass after another for all of them, each answered as if it were alone.

    add -> drafter.propose -> scheduler.schedule -> forward_step -> verdicts -> Answer.take -> scheduler.complete
             (guesses)          (who runs)           (one pass)     (tokens)    (where it ends)      -> outputs
                                prefixes.open                                    prefixes.passed, .end

The scheduler has numbers, the pool has pasts; this file keeps the two the same. A request that runs has one sequence at
most, of as many tokens as the scheduler counts; a request that waits or has ended has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import BLOCK_TOKENS, REWIND, Pool, PrefixCache
from wavefold.cache import Sequence as Cached
from wavefold.engine.drafting import Drafter, proposers_of
from wavefold.engine.prefixes import Keeping, Prefixes
from wavefold.engine.ranks import Leader
from wavefold.engine.request import Output, Plan, PlannedSpan, Request, Result
from wavefold.engine.request_check import check_request
from wavefold.engine.room import check_pool
from wavefold.engine.rows import StepRows, adapter_of, answer_of, rows_of
from wavefold.engine.scheduler import Scheduler
from wavefold.engine.turns import Turns
from wavefold.engine.verdict import Verdict, verdicts
from wavefold.model import Step, Transformer
from wavefold.model.transformer import PASS_TOKENS
from wavefold.waves.transport import RankLost

MAX_RUNNING = 16
CHUNK_TOKENS = 256
"""Rows of prompts in a step that decodes: an answer that goes on waits for no more."""
MOST_DRAFTS = REWIND - 1


class Runner:
    """Runs requests whose `sampling` is an `Answer`. Any thread may call it; one step runs at a time.

    `num_blocks` of 128 tokens are shared by at most `max_running` requests. The pool is there while there are requests,
    or for good with `keeping`: then what was read stays cached. Over ranks nothing is kept.
    A step has at most `step_tokens` rows, of prompts at most `chunk_tokens` beside requests that decode, and at most
    `draft_depth` drafts for each request (0: none are made), by a `drafter` (None: the model's own proposers). `leader`
    tells other ranks of each pass. Raises ValueError for numbers out of range.
    """

    def __init__(
        self, model: Transformer, num_blocks: int, max_running: int = MAX_RUNNING, step_tokens: int = PASS_TOKENS,
        draft_depth: int = 0, drafter: Drafter | None = None, clock: Callable[[], float] = time.perf_counter,
        chunk_tokens: int = CHUNK_TOKENS, leader: Leader | None = None, keeping: Keeping | None = None,
    ):  # fmt: skip
        if not 0 <= draft_depth <= MOST_DRAFTS:
            raise ValueError(f"draft_depth = {draft_depth} is not allowed; expected 0 to {MOST_DRAFTS}")
        self.model, self.num_blocks, self.max_running = model, num_blocks, max_running
        self._numbers = num_blocks, max_running, step_tokens, draft_depth
        self._chunk_tokens = chunk_tokens
        self._scheduler = self._new_scheduler()
        self._drafter = (drafter or Drafter(draft_depth, proposers_of(model, None))) if draft_depth else None
        self._window = self._drafter.window if self._drafter else 0
        self._undrafted: list[Request] = []
        """Requests that have taken tokens since drafts were made."""
        self._clock, self._leader = clock, leader
        self._pool: Pool | None = None
        self._keeping = None if leader else keeping
        self._prefixes: Prefixes | None = None
        self._requests: dict[Hashable, Request] = {}
        self._sequences: dict[Request, Cached] = {}
        self._turns = Turns()
        self._lock = self._turns.lock  # a stream that is collected during a step aborts its request in the same thread
        self._in_step = self._closing = False
        self.num_steps = self.num_drafted = self.num_accepted = 0
        """Passes, guesses that they verified, and those of them that were right."""

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(*self._numbers, chunk_tokens=self._chunk_tokens)

    @property
    def idle(self) -> bool:
        """True if no request waits or runs."""
        return not self._requests

    @property
    def num_open(self) -> int:
        """Requests that wait or run."""
        return len(self._requests)

    @property
    def num_used_blocks(self) -> int:
        """Blocks of the pool that hold tokens of requests, or of texts that are cached."""
        return self.num_blocks - self._pool.blocks.num_free if self._pool else 0

    # -- requests come and go ----------------------------------------------------------------------------------------

    def add(self, request: Request) -> Hashable:
        """Adds a new request. Returns its id.

        Raises ValueError, and leaves the others as they are, for a request that is out of range, that the pool cannot
        hold, or that has no room in memory.
        """
        with self._lock:
            check_request(self.model, request, self._numbers[2])
            try:
                self._scheduler.add(request)
                self._pool = self._pool or self._new_pool()
                self._requests[request.id] = request
            except BaseException:
                if self._requests.get(request.id, request) is request:  # not another one with the same id
                    self._requests.pop(request.id, None)
                    self._scheduler.abort(request.id)
                raise
            return request.id

    def abort(self, id: Hashable) -> None:
        """Ends a request and gives its blocks back. An id that has ended already changes nothing."""
        with self._lock:
            request = self._requests.get(id)
            if request is None:
                return
            self._scheduler.abort(id)
            answer_of(request).end("abort")
            if not self._in_step:
                self._close_ended()

    def _new_pool(self) -> Pool:
        draft_depth, num_tokens = self._numbers[3], self.num_blocks * BLOCK_TOKENS
        self._check_room(num_tokens)
        if self._leader:
            self._leader.new_pool(num_tokens, 1 + draft_depth)
        pool = self.model.new_pool(num_tokens, draft_tokens=1 + draft_depth, mtp=self._window > 0)
        self._prefixes = Prefixes(pool, self._keeping) if self._keeping else None
        return pool

    def _check_room(self, num_tokens: int) -> None:
        """Raises ValueError where a pool does not fit in memory, with the states of what runs and of what is kept."""
        _, max_running, step_tokens, _ = self._numbers
        max_states = self._keeping.max_states if self._keeping else 0
        check_pool(self.model, num_tokens, max_running + max_states, step_tokens)

    def grow(self, num_blocks: int) -> None:
        """From now on there are `num_blocks`, no fewer than before. Nothing may wait or run. What is cached stays."""
        with self._lock:
            assert self.idle and num_blocks >= self.num_blocks, "what is there is in use, or would be lost"
            if self._pool is not None:
                self._check_room(num_blocks * BLOCK_TOKENS)
            self.num_blocks, self._numbers = num_blocks, (num_blocks, *self._numbers[1:])
            self._scheduler = self._new_scheduler()
            if self._pool is not None:
                self._pool.grow(num_blocks * BLOCK_TOKENS)

    # -- a step --------------------------------------------------------------------------------------------------------

    def step(self, unless: Callable[[], bool] = lambda: False) -> list[Output]:
        """Runs one pass for the requests that are due. Returns the new tokens of those that have any.

        `unless` is asked when it is this thread's turn: if it is true, nothing runs.

        A request whose logits are NaN ends alone, with the finish reason "error". An error or interruption of the pass
        is raised; all requests stay, and the next step tries again.
        """
        with self._turns.step():
            if self.idle or unless():
                return []
            try:
                self._in_step = True
                return self._step()
            finally:
                self._in_step = False
                self._close_ended()

    def _step(self) -> list[Output]:
        began = self._clock()
        self._draft()
        started = self._clock()
        plan: Plan | None = None
        try:
            plan = self._scheduler.schedule(self._find)
            # with a cache `_find` has closed what waited: a request that runs again has a new sequence
            self._close([one for one in plan.released if self._prefixes is None or one.state != "running"])
            found: Sequence[Verdict] = ()
            rows = rows_of(plan.spans, self._windows(plan.spans))
            streams = self.model.new_streams(len(rows.streams_of)) if rows.streams_of else None
            if plan.spans:
                step = self._opened(plan, rows)
                with self._leader.telling(plan.spans, rows) if self._leader else nullcontext():
                    logits = self.model.forward_step(step, streams)
                self.num_steps += 1
                with (self.model.runtime or ops.current()).active():
                    found = verdicts(logits, rows.spans)
        except RankLost as error:  # no pass can run any more
            self._reset(str(error))
            raise
        except BaseException as error:
            if plan is None:
                self._reset(f"{type(error).__name__} while a step was planned")
            else:
                self._scheduler.cancel(plan, [span.request for span in plan.spans if self._is_ahead(span)])
            raise
        try:
            outputs = self._taken(plan, found, rows, streams, self._clock() - began)
            if self._drafter:
                self._drafter.observe_step(plan.spans, self._clock() - started)
            return outputs
        except BaseException as error:  # between two counts of the same tokens: nothing can be said about any request
            self._reset(f"{type(error).__name__} while the tokens of a step were taken")
            raise

    def _draft(self) -> None:
        """Offers drafts for the requests that have new tokens and decode in the next step."""
        if self._drafter is None or not self._undrafted:
            return
        requests, self._undrafted = self._drafter.due(self._undrafted), []
        if not requests:
            return
        decodes = [request for request in self._scheduler.running if request.num_tokens - request.num_cached == 1]
        due = [request for request in requests if request in decodes]
        for request, drafts in zip(due, self._drafter.propose(due, len(decodes)), strict=True):
            self._scheduler.offer(request, drafts)

    def _find(self, request: Request) -> int | None:
        """Opens the sequence of a request that is admitted now with its cached tokens. Returns how many there are.

        None: it waits for another one that reads the same text.
        """
        if self._prefixes is None:
            return 0
        if self._prefixes.waits(request, self._scheduler.running):
            return None
        self._close([other for other in self._sequences if other.state != "running"])
        sequence = self._prefixes.open(request)
        if sequence is None:
            return 0
        sequence.adapter = adapter_of(request)
        self._sequences[request] = sequence
        return sequence.num_tokens

    def _windows(self, spans: Sequence[PlannedSpan]) -> list[int]:
        """Returns the tokens at the end of each span's text whose streams are wanted; an empty list for none."""
        if self._drafter is None or not self._window:
            return []
        windows = [self._drafter.window_of(span.request) for span in spans]
        return windows if any(windows) else []

    def _opened(self, plan: Plan, rows: StepRows) -> Step:
        """Returns the step, with a new sequence for each request that is read from its first token.

        A request of which tokens are cached has its sequence already.
        """
        assert self._pool is not None
        for span in plan.spans:
            if span.request not in self._sequences:
                sequence = self._sequences[span.request] = self._pool.open()
                sequence.adapter = adapter_of(span.request)
            assert self._sequences[span.request].num_tokens == span.first, "a sequence is not as the scheduler counts"
            if self._prefixes:
                self._prefixes.mark(span.request, self._sequences[span.request])
        tokens = torch.tensor(rows.tokens, dtype=torch.int64)
        sequences = [self._sequences[span.request] for span in plan.spans]
        return Step(tokens, sequences, rows.counts, rows.wanted, rows.streams_of)

    def _is_ahead(self, span: PlannedSpan) -> bool:
        """True if the tokens of a span are in its sequence, though its step did not end."""
        sequence = self._sequences.get(span.request)
        return sequence is not None and sequence.num_tokens != span.first

    def _taken(
        self, plan: Plan, found: Sequence[Verdict], rows: StepRows, streams: Tensor | None, seconds: float
    ) -> list[Output]:
        """Gives what was found to the answers and to the scheduler. Returns the outputs of the step."""
        results: list[Result | None] = []
        failed: dict[Request, str] = {}
        for span, verdict, of_span in zip(plan.spans, found, rows.spans, strict=True):
            kept = None if streams is None or of_span.streams is None else streams[of_span.streams]
            results.append(self._result(span, verdict, kept, seconds))
            if verdict.error:
                failed[span.request] = verdict.error
                if not span.wanted:
                    self._scheduler.abort(span.request.id)
        if self._prefixes:
            for request in failed:
                self._prefixes.distrust(request)
        outputs = self._scheduler.complete(plan, results)
        outputs += [
            Output(span.request, (), "error") for span in plan.spans if span.request in failed and not span.wanted
        ]
        for output in outputs:
            if output.finish_reason is not None:
                answer_of(output.request).end(output.finish_reason, failed.get(output.request, ""))
        return outputs

    def _result(
        self, span: PlannedSpan, verdict: Verdict, streams: Tensor | None, seconds: float
    ) -> Result | None:  # fmt: skip
        """Takes the tokens of a span into its answer and its sequence. Returns what the scheduler is told."""
        request, answer, sequence = span.request, answer_of(span.request), self._sequences[span.request]
        if request.finish_reason is not None:  # aborted while the step ran
            return Result((), (), "abort") if span.wanted else None
        answer.prompt_logprobs += verdict.prompt_logprobs
        before = answer.num_chosen
        tokens, finish = answer.take(verdict.tokens, verdict.logprobs)
        answer.spent(before, seconds, sequence.cache_bytes)
        if not span.wanted:
            self._observe(span, 0, streams)
            if self._prefixes and not verdict.error:
                self._prefixes.passed(request, sequence, is_read=False)
            return None
        if verdict.error:
            finish = finish or "error"
        accepted = min(len(tokens), max(len(verdict.tokens) - 1, 0))  # the drafts that are tokens of the answer
        self.num_drafted, self.num_accepted = self.num_drafted + len(span.drafts), self.num_accepted + accepted
        if finish is not None:
            sequence.rewind(len(span.drafts) - accepted)
            return Result(tokens, (), finish)
        forced, finish = answer.take_forced(request.max_tokens - len(request.output) - len(tokens))
        sequence.rewind(len(span.drafts) - accepted)
        if finish is not None:
            return Result([*tokens, *forced], (), finish, len(forced))
        if self._prefixes:
            self._prefixes.passed(request, sequence, is_read=before == 0)
        self._observe(span, accepted, streams)
        if self._drafter:
            self._undrafted.append(request)
        return Result([*tokens, *forced], forced=len(forced))

    def _observe(self, span: PlannedSpan, accepted: int, streams: Tensor | None) -> None:
        """Tells the drafter which drafts were right, and the streams of the tokens that stay in the sequence."""
        if self._drafter is None:
            return
        sequence, rejected = self._sequences[span.request], len(span.drafts) - accepted
        kept = None if streams is None else streams[: len(streams) - rejected]
        self._drafter.observe(span, sequence, accepted, kept)

    # -- beside the requests -------------------------------------------------------------------------------------------

    @contextmanager
    def beside(self) -> Iterator[PrefixCache | None]:
        """While the block runs no step does: the model and its experts are the caller's, who has a pool of its own.

        Gives what is cached of texts. Where requests run, keep the block as short as a step: their answers wait.
        Raises ValueError over ranks.
        """
        if self._leader:
            raise ValueError("a pass beside requests is not allowed over several processes; expected one process")
        with self._turns.beside(lambda: self.idle):
            yield self._prefixes.cache if self._prefixes else None

    # -- sequences -----------------------------------------------------------------------------------------------------

    def _close(self, requests: Iterable[Request]) -> None:
        for request in requests:
            if (sequence := self._sequences.pop(request, None)) is not None:
                failed = "error" in (request.finish_reason, answer_of(request).finish_reason)
                if self._prefixes and not failed:
                    self._prefixes.end(request, sequence)
                else:
                    sequence.close()
                if self._leader:
                    self._leader.close(request)

    def _close_ended(self) -> None:
        """Closes the sequences of requests that wait or have ended, and forgets those that have ended.

        A stream that is collected meanwhile, in the same thread, aborts its request: that one follows.
        """
        if self._closing:
            return
        try:
            self._closing = True
            while idle := [request for request in self._sequences if request.state != "running"]:
                self._close(idle)
        finally:
            self._closing = False
        for request in [request for request in self._requests.values() if request.state == "finished"]:
            del self._requests[request.id]
            if self._drafter:
                self._drafter.forget(request)
            if self._prefixes:
                self._prefixes.forget(request)
        if self.idle and self._prefixes is None:
            self._pool = None

    def _reset(self, error: str) -> None:
        """Ends all requests with an error, and begins anew."""
        self._undrafted, self._scheduler = [], self._new_scheduler()
        for request in self._requests.values():
            request.state, request.finish_reason = "finished", "error"
        self._close(list(self._sequences))
        if self._pool is not None:
            self._pool.abandon()  # what an interruption left without an owner
        if self._prefixes:
            self._prefixes.cache.clear()
        for request in self._requests.values():
            answer_of(request).end("error", error)
