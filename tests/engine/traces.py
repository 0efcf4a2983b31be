"""Random lives of a scheduler: arrivals, lengths, priorities, aborts, drafts, tiny pools. `Watch` checks every step.

    python -m tests.engine.traces --steps 10000000 --seed 7        (make traces)

A trace is a row of episodes. Each has a scheduler of other numbers, some thousand steps, and an end at which everything
that has come must finish. Seeds and steps say everything.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.engine.progress import progress
from tests.engine.watch import Bounds, Watch
from wavefold.engine.request import Plan, PlannedSpan, Request, Result
from wavefold.engine.scheduler import Scheduler

TOKENS = tuple(range(64))
Make = Callable[[Bounds], Scheduler]


def scheduler_of(bounds: Bounds, kind: type[Scheduler] = Scheduler) -> Scheduler:
    return kind(
        bounds.num_blocks, bounds.max_running, bounds.step_tokens, bounds.draft_depth, bounds.age_steps,
        bounds.chunk_tokens,
    )  # fmt: skip


class Episode:
    """One scheduler under one load. `run` returns the number of its steps."""

    def __init__(self, seed: int, make: Make = scheduler_of):
        self.random = random = Random(seed)
        max_running, draft_depth = random.randint(1, 10), random.choice([0, 1, 1, 2, 3])
        room = random.choice([1, 2, 16, 64, 200, 1000])
        bounds = Bounds(
            num_blocks=random.randint(1, 12), max_running=max_running, draft_depth=draft_depth,
            step_tokens=max_running * (1 + draft_depth) + room, age_steps=random.choice([1, 4, 16, 50]),
            top_priority=random.choice([0, 1, 5]), most_tokens=random.choice([1, 10, 100, 200, 400]),
            chunk_tokens=random.choice([1, 7, 50, 200, 10**9, 10**9]),
        )  # fmt: skip
        if bounds.drain_steps > 1000:  # a starving request would be seen too late
            bounds = replace(bounds, step_tokens=bounds.step_tokens + 50, chunk_tokens=max(bounds.chunk_tokens, 50))
        self.bounds = bounds
        self.scheduler = make(bounds)
        self.watch = Watch(self.scheduler, bounds)
        self.caches = random.choice([0, 0, 0.3, 1])
        self.waits = random.choice([0, 0.2, 0.9])
        self.most_alive = random.choice([2, 6, 12, 40])
        self.arrivals = random.choice([0.02, 0.1, 0.3, 0.9])
        self.aborts = random.choice([0, 0, 0.01, 0.05])
        self.cancels = random.choice([0, 0, 0.01])
        self.stops = random.choice([0, 0.002, 0.1])
        self.accepts = random.choice([0, 0.5, 0.9, 1])
        self.forces = random.choice([0, 0, 0.1, 0.5])
        self.urgent = random.random() < 0.5
        self.counts: Counter[str] = Counter()
        self.next_id = 0

    def run(self, num_steps: int) -> int:
        """`num_steps` steps with arrivals, then steps without until everything has finished."""
        watch = self.watch
        for _ in range(num_steps):
            if self.random.random() < self.arrivals:
                self._arrive()
            self._step()
        most = sum(2 * self.bounds.drain_steps for _ in watch.alive) + 200
        while watch.alive:
            most -= 1
            assert most > 0, f"{len(watch.alive)} requests never finish"
            self._step()
        last = self.scheduler.schedule(self._found)
        watch.planned(last)
        watch.completed(last, [], self.scheduler.complete(last, []))
        assert self.scheduler.idle and self.scheduler.num_free == self.bounds.num_blocks
        self.counts["preempted"], self.counts["dropped drafts"] = watch.preemptions, watch.dropped_drafts
        return watch.clock

    def _arrive(self) -> None:
        """A burst of requests, as long as the queue has room; those that the pool cannot hold must be refused."""
        random, bounds, watch = self.random, self.bounds, self.watch
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            if len(watch.alive) >= self.most_alive:
                return
            length = int(random.random() ** 3 * 128 * bounds.num_blocks) + 1
            if random.random() < 0.2:
                length = max(1, length // 128 * 128 + random.choice([-1, 0, 1]))
            max_tokens = random.randint(1, bounds.most_tokens)
            priority = 0
            if bounds.top_priority:
                often = self.urgent and random.random() < 0.9
                priority = bounds.top_priority if often else random.randint(-2, bounds.top_priority)
            request = Request(self.next_id, range(length), max_tokens, priority)
            self.next_id += 1
            fits = -(-(length + max_tokens - 1) // 128) <= bounds.num_blocks
            try:
                self.scheduler.add(request)
            except ValueError as error:
                assert not fits and str(length) in str(error) and str(max_tokens) in str(error)
                self.counts["refused"] += 1
                continue
            assert fits, "a request was accepted that the pool cannot hold"
            self.counts["requests"] += 1
            watch.added(request)

    def _found(self, request: Request) -> int | None:
        """A cache that has any part of a request's tokens, or lets it wait for one that is read before it."""
        random, count = self.random, 0
        reading = any(
            other.rank < request.rank and other.num_tokens - other.num_cached > 1 for other in self.scheduler.running
        )
        if self.caches and reading and random.random() < self.waits:
            self.counts["waits"] += 1
            return None
        if random.random() < self.caches:
            count = min(random.choice([random.randrange(request.num_tokens), 10**9]), request.num_tokens - 1)
            self.counts["hits"] += count > 0
        places = range((count // 128 + 1) * 128, request.num_tokens if self.caches else 0, 128)
        request.marks = [place for place in places if random.random() < 0.5]
        self.watch.found(request, count)
        return count

    def _abort(self, in_flight: bool) -> None:
        alive = self.watch.alive
        if alive and self.random.random() < self.aborts:
            id = self.random.choice(list(alive)) if self.random.random() < 0.95 else -1
            self.scheduler.abort(id)
            self.watch.aborted(id, in_flight)
            self.counts["aborted"] += id != -1

    def _step(self) -> None:
        random, watch, scheduler = self.random.random, self.watch, self.scheduler
        if self.aborts:
            self._abort(in_flight=False)
        plan = scheduler.schedule(self._found)
        watch.planned(plan)
        if self.aborts:
            self._abort(in_flight=True)
        if self.cancels and random() < self.cancels:
            scheduler.cancel(plan)
            watch.cancelled()
            return
        results = self._results(plan)
        watch.completed(plan, results, scheduler.complete(plan, results))

    def _results(self, plan: Plan) -> list[Result | None]:
        return [self._result(span) if span.wanted else None for span in plan.spans]

    def _result(self, span: PlannedSpan) -> Result:
        random = self.random.random
        count = 1
        for _ in span.drafts:
            if random() >= self.accepts:
                break
            count += 1
        if self.stops and random() < self.stops:
            return Result(TOKENS[: int(random() * (count + 1))], (), "stop")
        depth = self.bounds.draft_depth
        drafts = TOKENS[: int(random() * (depth + 2))] if depth else ()
        forced = 0
        if self.forces and random() < self.forces:
            forced = int(random() ** 3 * (span.request.max_tokens - len(span.request.output) - count + 1))
            self.counts["forced tokens"] += forced
        return Result([*TOKENS[:count], *[5] * forced], drafts, forced=forced)


def run(
    num_steps: int, seed: int, make: Make = scheduler_of, episode_steps: int = 4000,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Counter[str]:  # fmt: skip
    """At least `num_steps` steps. Returns counts of what happened, and the largest share that was used of a bound."""
    counts: Counter[str] = Counter()
    worst = 0.0
    while counts["steps"] < num_steps:
        episode = Episode(seed * 1_000_003 + counts["episodes"], make)
        try:
            counts["steps"] += episode.run(min(episode_steps, num_steps - counts["steps"]))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, episode {counts['episodes']}, {episode.bounds}: {error}") from error
        counts["episodes"] += 1
        counts += episode.counts
        worst = max(worst, episode.watch.worst)
        on_progress(counts["steps"])
    counts["worst bound, 1/1000"] = round(worst * 1000)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="A long random trace through the scheduler, every step checked.")
    parser.add_argument("--steps", type=int, default=10_000_000, metavar="N", help="at least so many (default 10M)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the trace (default 0)")
    args = parser.parse_args()
    counts = run(args.steps, args.seed, on_progress=progress(args.steps, "steps"))
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
