"""A second set of books beside a scheduler: what it must have done, computed from requests and results alone.

It never reads the scheduler's books but to compare them. Every check raises AssertionError.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from wavefold.engine.request import Output, Plan, Request, Result
from wavefold.engine.scheduler import Scheduler


@dataclass(slots=True, eq=False)
class Seen:
    """A request as the watch knows it. `standing` orders requests: the smallest has the highest effective priority."""

    request: Request
    standing: tuple[int, int]
    known: int
    left: int
    cached: int = 0
    drafts: int = 0
    blocks: int = 0
    running: bool = False
    ended: bool = False
    aborted: bool = False
    bound: tuple[int, int] | None = None
    """From which step on it has to end in how many."""


@dataclass(frozen=True)
class Bounds:
    """The numbers of a scheduler, told to the watch by whoever made it. `most_tokens`: the largest max_tokens."""

    num_blocks: int
    max_running: int
    step_tokens: int
    draft_depth: int
    age_steps: int
    top_priority: int
    most_tokens: int
    chunk_tokens: int = 10**9

    @property
    def drain_steps(self) -> int:
        """T of the bound in the scheduler's docstring."""
        room = min(self.chunk_tokens, self.step_tokens - self.max_running * (1 + self.draft_depth))
        return -(-128 * self.num_blocks // room) + self.num_blocks + self.most_tokens


def blocks_for(num_tokens: int) -> int:
    return (num_tokens + 127) // 128


class Watch:
    """Told of each event; `plan` and `completed` check a step. `worst`: the largest share used of a bound."""

    def __init__(self, scheduler: Scheduler, bounds: Bounds):
        self.scheduler, self.bounds = scheduler, bounds
        self.alive: dict[object, Seen] = {}
        self.running: list[Seen] = []
        self.gone: list[Request] = []
        """Ended after they held blocks: the next plan has to release them."""
        self.clock = self.steps = self.number = 0  # `steps` leaves out those that were cancelled
        self._overtaken: list[tuple[int, int, Seen]] = []  # by the step from which nobody new can come before them
        self._deadlines: list[tuple[int, int, Seen]] = []
        self.worst = 0.0
        self.preemptions = self.dropped_drafts = 0

    # -- events ----------------------------------------------------------------------------------------------------

    def added(self, request: Request) -> None:
        bounds = self.bounds
        standing = self.clock - request.priority * bounds.age_steps, self.number
        seen = Seen(request, standing, len(request.prompt), request.max_tokens)
        self.alive[request.id] = seen
        settled = self.clock + (bounds.top_priority - request.priority) * bounds.age_steps
        heapq.heappush(self._overtaken, (settled, self.number, seen))
        self.number += 1

    def found(self, request: Request, num_cached: int) -> None:
        """So many of the tokens of a request that is admitted now are in a cache."""
        seen = self.alive[request.id]
        assert not seen.running, "a running request was looked up"
        seen.cached = num_cached

    def aborted(self, id: object, in_flight: bool) -> None:
        seen = self.alive.get(id)
        if seen is None:
            return
        seen.aborted = True
        if not (in_flight and seen.running):
            self._end(seen)
        self.check_blocks()

    def _end(self, seen: Seen) -> None:
        seen.ended = True
        if seen.running:
            self.running.remove(seen)
            self.gone.append(seen.request)
        if seen.bound:
            self.worst = max(self.worst, (self.steps - seen.bound[0]) / seen.bound[1])
        seen.blocks = 0
        del self.alive[seen.request.id]
        assert seen.request.state == "finished" and seen.request.finish_reason is not None

    # -- a step ----------------------------------------------------------------------------------------------------

    def planned(self, plan: Plan) -> None:
        self.clock += 1
        self._settle()
        self._released(plan)
        ready = sum(seen.known - seen.cached == 1 for seen in self.running)
        admitted: list[Seen] = []
        read: dict[Seen, int] = {}
        rows = decodes = cut = 0
        for span in plan.spans:
            seen = self.alive[span.request.id]
            if not seen.running:
                admitted.append(seen)
                seen.running = True
                self.running.append(seen)
                read[seen] = span.num_tokens
            elif seen.known - seen.cached == 1:
                decodes += 1
            else:
                read[seen] = span.num_tokens
            pending = seen.known - seen.cached
            assert span.first == seen.cached and 1 <= span.num_tokens <= pending, "the span has other tokens"
            end = span.first + span.num_tokens
            crossed = sum(span.first < mark < end for mark in span.request.marks)
            assert crossed <= 1, "the span goes over two marks"
            assert span.wanted == (span.num_tokens == pending), "a token is chosen too early, or not"
            planned = len(span.drafts)
            assert planned <= seen.drafts, "drafts that nobody offered, or beyond the depth"
            if planned < seen.drafts:
                cut += seen.drafts - planned
                assert (seen.known + planned) % 128 == 0, "drafts were dropped although a block had room"
            rows += span.num_tokens + planned
            seen.blocks = blocks_for(seen.known + planned)
        assert len({id(span.request) for span in plan.spans}) == len(plan.spans), "a request has two spans"
        assert decodes == ready, f"{ready} requests could decode, {decodes} do"
        assert rows <= self.bounds.step_tokens, f"{rows} rows in a step"
        assert len(self.running) <= self.bounds.max_running, f"{len(self.running)} requests run"
        assert plan.spans or not self.alive, "nothing runs"
        self.dropped_drafts += cut
        chunk = sum(read.values())
        assert not decodes or chunk <= self.bounds.chunk_tokens, f"{chunk} rows of prompts beside decodes"
        self._prompts_in_order(
            read, rows + cut == self.bounds.step_tokens or (decodes and chunk == self.bounds.chunk_tokens)
        )
        used = self.check_blocks()
        assert not cut or used == self.bounds.num_blocks, "drafts were dropped with blocks free"
        if admitted:
            waiting = [seen.standing for seen in self.alive.values() if not seen.running]
            last = max(seen.standing for seen in admitted)
            assert not waiting or last < min(waiting), "somebody was admitted before a request of higher priority"

    def _released(self, plan: Plan) -> None:
        """What was released: all that ended since the plan before, and those preempted now, which had to be."""
        preempted = []
        for request in plan.released:
            if request in self.gone:
                self.gone.remove(request)
            else:
                seen = self.alive[request.id]
                assert seen.running, "released twice, or never ran"
                preempted.append(seen)
        assert not self.gone, "an ended request was not released"
        if not preempted:
            for seen in self.running:
                seen.blocks = blocks_for(seen.known)
            return
        self.preemptions += len(preempted)
        for seen in preempted:
            self.running.remove(seen)
        first = min(preempted, key=lambda seen: seen.standing)
        assert all(seen.standing < first.standing for seen in self.running), "the wrong request was preempted"
        demand = blocks_for(first.known)
        for seen in self.running:
            seen.blocks = blocks_for(seen.known)
            demand += seen.blocks
        assert demand > self.bounds.num_blocks, "a request was preempted without need"
        for seen in preempted:
            seen.running, seen.cached, seen.drafts, seen.blocks = False, 0, 0, 0

    def _prompts_in_order(self, read: dict[Seen, int], is_full: bool) -> None:
        """No prompt is cut short while a step has rows left; nobody has rows before a prompt of higher priority."""
        cut = [
            seen.standing for seen in self.running
            if seen.known - seen.cached > max(1, read.get(seen, 0))
            and [seen.cached + read.get(seen, 0)] != [mark for mark in seen.request.marks if mark > seen.cached][1:2]
        ]  # fmt: skip
        if cut:
            assert is_full, "a prompt waits although the step has rows left"
            last = max((seen.standing for seen in read), default=min(cut))
            assert last <= min(cut), "a prompt was read before another of higher priority"

    def cancelled(self) -> None:
        self.steps -= 1
        for seen in self.running:
            seen.blocks = blocks_for(seen.known)
        self._ended_in_flight()
        self.check_blocks()

    def completed(self, plan: Plan, results: Sequence[Result | None], outputs: list[Output]) -> None:
        rest = iter(outputs)
        for span, result in zip(plan.spans, results, strict=True):
            seen = self.alive[span.request.id]
            if seen.aborted:
                continue
            if result is None:
                seen.cached += span.num_tokens
                continue
            seen.known += len(result.tokens)
            seen.left -= len(result.tokens)
            seen.cached = seen.known - 1 - result.forced
            seen.blocks = blocks_for(seen.cached)
            seen.drafts = max(0, min(len(result.drafts), self.bounds.draft_depth, seen.left - 1))
            if result.forced:
                seen.drafts = 0
            reason = result.finish or ("length" if seen.left == 0 else None)
            assert seen.left >= 0, "the answer is longer than max_tokens"
            assert next(rest) == Output(seen.request, result.tokens, reason)
            if reason:
                self._end(seen)
        assert next(rest, None) is None, "an output that nobody computed"
        self._ended_in_flight()
        self.check_blocks()

    def _ended_in_flight(self) -> None:
        self.steps += 1
        for seen in [seen for seen in self.running if seen.aborted]:
            self._end(seen)
        while self._deadlines and self._deadlines[0][0] < self.steps:
            assert self._deadlines[0][-1].ended, f"request {self._deadlines[0][-1].request.id} starves"
            heapq.heappop(self._deadlines)

    # -- what must hold at any moment ------------------------------------------------------------------------------

    def check_blocks(self) -> int:
        """Returns the blocks in use: the sum over running requests, what the scheduler says, and no more than exist."""
        used = 0
        for seen in self.running:
            used += seen.blocks
            assert seen.request.num_blocks == seen.blocks, f"{seen.request.num_blocks} blocks, not {seen.blocks}"
        booked = self.bounds.num_blocks - self.scheduler.num_free
        assert used == booked, f"{used} blocks are held, the scheduler counts {booked}"
        assert used <= self.bounds.num_blocks, f"{used} of {self.bounds.num_blocks} blocks are held"
        return used

    def _settle(self) -> None:
        """From the step on at which nobody new can come before a request, it has a deadline."""
        while self._overtaken and self._overtaken[0][0] < self.clock:
            _, number, seen = heapq.heappop(self._overtaken)
            if not seen.ended:
                ahead = sum(other.standing < seen.standing for other in self.alive.values())
                steps = 2 * self.bounds.drain_steps * (ahead + 1)
                seen.bound = self.steps, steps
                heapq.heappush(self._deadlines, (self.steps + steps, number, seen))
