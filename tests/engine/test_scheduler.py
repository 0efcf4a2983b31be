"""The scheduler: what its words promise one by one, then random traces, then wrong schedulers that the traces catch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import pytest

from tests.engine.traces import run, scheduler_of
from tests.engine.watch import Bounds, Watch
from wavefold.cache.layout import BLOCK_TOKENS
from wavefold.engine import request as request_file
from wavefold.engine import scheduler as scheduler_file
from wavefold.engine.request import Output, Plan, PlannedSpan, Request, Result
from wavefold.engine.scheduler import Find, Scheduler, blocks_of, find_nothing


def step(
    scheduler: Scheduler, drafts: Sequence[int] = (), find: Find = find_nothing
) -> tuple[Plan, list[Output]]:  # fmt: skip
    """One step in which every draft is rejected and `drafts` are offered for the next."""
    plan = scheduler.schedule(find)
    return plan, scheduler.complete(plan, [Result([7], drafts) if span.wanted else None for span in plan.spans])


def rows(plan: Plan) -> list[tuple[object, int, int, int]]:
    return [(span.request.id, span.first, span.num_tokens, len(span.drafts)) for span in plan.spans]


def added(scheduler: Scheduler, id: str, length: int, max_tokens: int = 10, priority: int = 0) -> Request:
    request = Request(id, range(length), max_tokens, priority)
    scheduler.add(request)
    return request


class TestStep:
    def test_a_life(self) -> None:
        scheduler = Scheduler(num_blocks=4, max_running=2, step_tokens=100)
        request = added(scheduler, "a", 150, 3)
        assert (request.state, scheduler.num_free) == ("waiting", 4)
        plan, outputs = step(scheduler)
        assert (rows(plan), outputs) == ([("a", 0, 100, 0)], [])
        assert (request.state, request.num_blocks, scheduler.num_free) == ("running", 2, 2)
        plan, outputs = step(scheduler)
        assert (rows(plan), outputs) == ([("a", 100, 50, 0)], [Output(request, [7], None)])
        assert rows(step(scheduler)[0]) == [("a", 150, 1, 0)]
        plan, outputs = step(scheduler)
        assert (rows(plan), outputs) == ([("a", 151, 1, 0)], [Output(request, [7], "length")])
        assert (request.state, request.output, scheduler.num_free) == ("finished", [7, 7, 7], 4)
        assert not scheduler.idle, "the runner has a sequence to close"
        assert step(scheduler)[0] == Plan([], [request])
        assert scheduler.idle

    def test_decodes_come_first_and_a_prompt_shares_what_is_left(self) -> None:
        scheduler = Scheduler(8, 4, 50)
        added(scheduler, "a", 10), step(scheduler)
        added(scheduler, "b", 120)
        assert rows(step(scheduler)[0]) == [("a", 10, 1, 0), ("b", 0, 49, 0)]
        added(scheduler, "c", 30)
        assert rows(step(scheduler)[0]) == [("a", 11, 1, 0), ("b", 49, 49, 0)]
        assert rows(step(scheduler)[0]) == [("a", 12, 1, 0), ("b", 98, 22, 0), ("c", 0, 27, 0)]
        assert rows(step(scheduler)[0]) == [("a", 13, 1, 0), ("b", 120, 1, 0), ("c", 27, 3, 0)]

    def test_a_decode_waits_for_one_chunk_at_most(self) -> None:
        scheduler = Scheduler(8, 4, 100, chunk_tokens=20)
        added(scheduler, "a", 10)
        assert rows(step(scheduler)[0]) == [("a", 0, 10, 0)]
        added(scheduler, "b", 30), added(scheduler, "c", 150)
        assert rows(step(scheduler)[0]) == [("a", 10, 1, 0), ("b", 0, 20, 0)]
        assert rows(step(scheduler)[0]) == [("a", 11, 1, 0), ("b", 20, 10, 0), ("c", 0, 10, 0)]
        scheduler.abort("a"), scheduler.abort("b")
        assert rows(step(scheduler)[0]) == [("c", 10, 100, 0)], "nobody decodes, so the step is full"

    def test_drafts(self) -> None:
        scheduler = Scheduler(8, 2, 50, draft_depth=2)
        request = added(scheduler, "a", 10, 8)
        step(scheduler, [1, 2, 3])
        plan = scheduler.schedule()
        assert plan.spans == [PlannedSpan(request, 10, 1, True, [1, 2])]
        assert scheduler.complete(plan, [Result([1, 2, 9], [4, 5])])[0].tokens == [1, 2, 9]
        assert (request.num_cached, request.num_tokens) == (13, 14)
        plan = scheduler.schedule()
        scheduler.complete(plan, [Result([6], [4, 5])])  # both are rejected
        assert (request.num_cached, request.num_tokens) == (14, 15)
        plan = scheduler.schedule()
        scheduler.complete(plan, [Result([4, 8], [1, 1, 1])])
        assert len(scheduler.schedule().spans[0].drafts) == 0, "one token is left of 8, so no draft can be used"

    def test_forced_tokens_are_read_like_a_prompt(self) -> None:
        scheduler = Scheduler(8, 2, 50, draft_depth=2)
        request = added(scheduler, "a", 10, 90)
        plan = scheduler.schedule()
        output = scheduler.complete(plan, [Result([7, 1, 2, 3], [9], forced=3)])[0]
        assert (output.tokens, request.num_tokens, request.num_cached) == ([7, 1, 2, 3], 14, 10)
        assert rows(step(scheduler)[0]) == [("a", 10, 4, 0)], "no drafts beside them"
        plan = scheduler.schedule()
        scheduler.complete(plan, [Result(range(1, 72), forced=70)])
        assert [rows(step(scheduler)[0]) for _ in range(2)] == [[("a", 15, 50, 0)], [("a", 65, 21, 0)]]

    def test_drafts_are_dropped_before_anybody_is_preempted(self) -> None:
        scheduler = Scheduler(3, 2, 400, draft_depth=3)
        added(scheduler, "a", 126, 100), added(scheduler, "b", 126, 100)
        step(scheduler, [1, 2, 3])
        assert rows(step(scheduler, [1, 2, 3])[0]) == [("a", 126, 1, 3), ("b", 126, 1, 1)]
        assert scheduler.num_free == 1, "rejected drafts gave their block back"
        assert rows(step(scheduler, [1, 2, 3])[0]) == [("a", 127, 1, 3), ("b", 127, 1, 0)]
        plan, _ = step(scheduler)
        assert rows(plan) == [("a", 128, 1, 3)]
        assert [request.id for request in plan.released] == ["b"]

    def test_a_preempted_request_reads_prompt_and_output_again(self) -> None:
        scheduler = Scheduler(2, 2, 400)
        added(scheduler, "a", 120, 100)
        late = added(scheduler, "b", 120, 100)
        for _ in range(9):
            step(scheduler)
        plan, _ = step(scheduler)
        assert (plan.released, rows(plan)) == ([late], [("a", 128, 1, 0)])
        assert (late.state, late.num_blocks, late.num_preemptions) == ("waiting", 0, 1)
        scheduler.abort("a")
        plan, outputs = step(scheduler)
        assert rows(plan) == [("b", 0, 129, 0)]
        assert (len(late.output), outputs[0].finish_reason) == (10, None)

    def test_a_lost_request_is_read_again(self) -> None:
        """Its rows were in the cache when the step was cancelled. Another one goes on where it was."""
        scheduler = Scheduler(4, 4, 50)
        lost, kept = added(scheduler, "a", 10), added(scheduler, "b", 10)
        step(scheduler)
        plan = scheduler.schedule()
        assert rows(plan) == [("a", 10, 1, 0), ("b", 10, 1, 0)]
        scheduler.cancel(plan, [lost])
        assert (lost.state, lost.num_blocks, kept.state) == ("waiting", 0, "running")
        plan, _ = step(scheduler)
        assert plan.released == [lost]
        assert sorted(rows(plan)) == [("a", 0, 11, 0), ("b", 10, 1, 0)]
        assert lost.output == [7, 7] and lost.num_preemptions == 1

    def test_a_lost_request_that_was_aborted_stays_finished(self) -> None:
        scheduler = Scheduler(4, 4, 50)
        lost = added(scheduler, "a", 10)
        plan = scheduler.schedule()
        scheduler.abort("a")
        scheduler.cancel(plan, [lost])
        assert (lost.state, scheduler.num_free, scheduler.waiting) == ("finished", 4, [])

    def test_a_cancelled_step_is_planned_again(self) -> None:
        scheduler = Scheduler(4, 2, 100, draft_depth=2)
        added(scheduler, "a", 127, 50), added(scheduler, "b", 60)
        step(scheduler, [1, 2]), step(scheduler, [1, 2])
        plan = scheduler.schedule()
        free = scheduler.num_free
        scheduler.cancel(plan)
        assert scheduler.num_free == free + 1, "the drafts' block"
        assert rows(scheduler.schedule()) == rows(plan)

    def test_stop_of_the_runner(self) -> None:
        scheduler = Scheduler(4, 2, 100)
        request = added(scheduler, "a", 5)
        plan = scheduler.schedule()
        assert scheduler.complete(plan, [Result([], (), "eos")]) == [Output(request, [], "eos")]
        assert (request.finish_reason, scheduler.num_free) == ("eos", 4)

    def test_steps_do_not_overlap(self) -> None:
        scheduler = Scheduler(4, 2, 100)
        added(scheduler, "a", 5)
        plan = scheduler.schedule()
        with pytest.raises(AssertionError, match="a plan is under way"):
            scheduler.schedule()
        scheduler.complete(plan, [Result([1])])
        with pytest.raises(AssertionError, match="not the one under way"):
            scheduler.complete(plan, [Result([1])])


class TestPrefixes:
    def test_a_prompt_begins_behind_what_is_cached_and_goes_over_one_mark_at_a_time(self) -> None:
        def find(request: Request) -> int:
            request.marks = [256, 384, 512]
            return 130

        scheduler = Scheduler(8, 2, 300)
        added(scheduler, "a", 600)
        assert [rows(step(scheduler, find=find)[0]) for _ in range(3)] == [
            [("a", 130, 254, 0)], [("a", 384, 216, 0)], [("a", 600, 1, 0)],
        ]  # fmt: skip

    def test_rows_that_a_mark_leaves_go_to_the_next_prompt(self) -> None:
        def find(request: Request) -> int:
            request.marks = [128, 256]
            return 0

        scheduler = Scheduler(8, 2, 300)
        added(scheduler, "a", 400), added(scheduler, "b", 100)
        assert rows(step(scheduler, find=find)[0]) == [("a", 0, 256, 0), ("b", 0, 44, 0)]

    def test_a_whole_prompt_in_the_cache_has_its_last_token_run(self) -> None:
        scheduler = Scheduler(8, 2, 200)
        added(scheduler, "a", 300)
        plan, outputs = step(scheduler, find=lambda request: request.num_tokens - 1)
        assert rows(plan) == [("a", 299, 1, 0)] and plan.spans[0].wanted and outputs[0].tokens == [7]
        with pytest.raises(AssertionError, match="the last token's logits"):
            scheduler = Scheduler(8, 2, 200)
            added(scheduler, "a", 300), scheduler.schedule(lambda request: request.num_tokens)

    def test_nobody_passes_a_request_that_waits_for_another_ones_prompt(self) -> None:
        def find(request: Request) -> int | None:
            return None if request.id == "b" and leader.num_cached < 300 else 0

        scheduler = Scheduler(8, 4, 200)
        leader = added(scheduler, "a", 300)
        added(scheduler, "b", 20), added(scheduler, "c", 20)
        assert [[row[0] for row in rows(step(scheduler, find=find)[0])] for _ in range(3)] == [
            ["a"],
            ["a"],
            ["a", "b", "c"],
        ]

    def test_a_preempted_request_goes_on_behind_what_is_cached(self) -> None:
        scheduler = Scheduler(2, 2, 400)
        added(scheduler, "a", 120, 100), added(scheduler, "b", 120, 100)
        for _ in range(10):
            step(scheduler)
        scheduler.abort("a")
        assert rows(step(scheduler, find=lambda request: 100)[0]) == [("b", 100, 29, 0)]


class TestOrder:
    def test_priority_then_arrival(self) -> None:
        scheduler = Scheduler(8, 1, 200)
        for id, priority in (("a", 0), ("b", 0), ("c", 2), ("d", 1)):
            added(scheduler, id, 5, 1, priority)
        assert [rows(step(scheduler)[0])[0][0] for _ in range(4)] == ["c", "d", "a", "b"]

    def test_age_outweighs_priority(self) -> None:
        """With 4 steps of age for one of priority, a request of priority 0 is passed during 8 steps by those of 2."""
        scheduler = Scheduler(8, 1, 200, age_steps=4)
        old = added(scheduler, "old", 5, 1)
        for number in range(20):
            added(scheduler, f"urgent {number}", 5, 1, 2)
            step(scheduler)
            if old.state == "finished":
                break
        assert number == 8

    def test_nobody_passes_a_request_that_waits_for_blocks(self) -> None:
        scheduler = Scheduler(4, 4, 1000)
        added(scheduler, "a", 300, 40), step(scheduler)
        added(scheduler, "large", 200, 5), added(scheduler, "small", 5, 5)
        assert rows(step(scheduler)[0]) == [("a", 300, 1, 0)]
        scheduler.abort("large")
        assert [request[0] for request in rows(step(scheduler)[0])] == ["a", "small"]

    def test_the_last_of_lowest_priority_is_preempted(self) -> None:
        scheduler = Scheduler(3, 3, 1000)
        for id, priority in (("low", -1), ("first", 0), ("second", 0)):
            added(scheduler, id, 127, 50, priority)
        step(scheduler), step(scheduler)
        plan, _ = step(scheduler)
        assert [request.id for request in plan.released] == ["low", "second"], "each of the three needs a block more"
        assert rows(plan) == [("first", 128, 1, 0)]


class TestAbort:
    @pytest.mark.parametrize("ends", ["a", "b", "c"])
    def test_amid_the_planning_of_a_step(self, ends: str) -> None:
        """As when the interpreter collects a stream then: one that decodes, one being admitted, one that waits."""
        scheduler = Scheduler(num_blocks=8, max_running=3, step_tokens=100)
        requests = {id: added(scheduler, id, 10) for id in "a"}
        step(scheduler)
        requests |= {id: added(scheduler, id, 10) for id in "bc"}
        aborted: list[str] = []

        def find(request: Request) -> int:
            if not aborted:
                aborted.append(ends)
                scheduler.abort(ends)
            return 0

        step(scheduler, find=find)
        while not scheduler.idle:
            step(scheduler)
        assert {id: request.finish_reason for id, request in requests.items()} == {
            id: "abort" if id == ends else "length" for id in "abc"
        }
        assert scheduler.num_free == 8 and len(requests[ends].output) < 10

    def test_waiting(self) -> None:
        scheduler = Scheduler(1, 1, 100)
        request = added(scheduler, "a", 5)
        scheduler.abort("a")
        assert (request.state, request.finish_reason, scheduler.idle) == ("finished", "abort", True)

    def test_running(self) -> None:
        scheduler = Scheduler(1, 1, 100)
        request = added(scheduler, "a", 5)
        step(scheduler)
        scheduler.abort("a")
        assert (request.state, scheduler.num_free) == ("finished", 1)
        assert step(scheduler)[0] == Plan([], [request])

    @pytest.mark.parametrize("cancel", [False, True])
    def test_while_its_step_runs(self, cancel: bool) -> None:
        """Its blocks are in use until the step has ended. Its id is not free before."""
        scheduler = Scheduler(1, 1, 100)
        request = added(scheduler, "a", 5)
        plan = scheduler.schedule()
        scheduler.abort("a")
        assert (request.state, scheduler.num_free) == ("running", 0)
        with pytest.raises(ValueError, match="id 'a' waits or runs already"):
            added(scheduler, "a", 5)
        if cancel:
            scheduler.cancel(plan)
        else:
            assert scheduler.complete(plan, [Result([1])]) == []
        assert (request.state, request.output, scheduler.num_free) == ("finished", [], 1)
        assert scheduler.schedule().released == [request]

    def test_of_one_that_has_ended_changes_nothing(self) -> None:
        scheduler = Scheduler(1, 1, 100)
        request = added(scheduler, "a", 5, 1)
        step(scheduler)
        scheduler.abort("a"), scheduler.abort("b")
        assert request.finish_reason == "length"


class TestRefused:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"prompt": []}, "request 'b': the prompt has no tokens"),
            ({"max_tokens": 0}, "request 'b': max_tokens = 0 is not allowed; expected 1 or more"),
            ({"priority": 101}, "request 'b': priority = 101 is not allowed; expected -100 to 100"),
            ({"id": "a"}, "a request with id 'a' waits or runs already"),
            (
                {"prompt": range(200), "max_tokens": 58},
                "200 prompt tokens and max_tokens = 58 need 3 blocks of 128 tokens, and the pool has 2; expected at "
                "most 257 tokens together",
            ),
        ],
    )
    def test_requests(self, fields: dict[str, object], message: str) -> None:
        scheduler = Scheduler(2, 1, 100)
        added(scheduler, "a", 5)
        with pytest.raises(ValueError, match=message):
            scheduler.add(Request(**{"id": "b", "prompt": range(5), "max_tokens": 5} | fields))  # type: ignore[arg-type]
        assert len(scheduler.waiting) == 1

    def test_the_longest_possible_runs_to_its_end(self) -> None:
        scheduler = Scheduler(2, 1, 300)
        request = added(scheduler, "a", 200, 57)
        for _ in range(57):
            step(scheduler)
        assert (request.finish_reason, len(request.output)) == ("length", 57)

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ((0, 1, 100), "num_blocks = 0 is not allowed; expected 1 or more"),
            ((1, 0, 100), "max_running = 0"),
            ((1, 1, 100, -1), "draft_depth = -1 is not allowed; expected 0 or more"),
            ((1, 1, 100, 0, 0), "age_steps = 0"),
            ((1, 8, 24, 2), "step_tokens = 24 is not allowed with max_running = 8 and draft_depth = 2; expected 25"),
        ],
    )
    def test_schedulers(self, numbers: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Scheduler(*numbers)


# -- random traces -----------------------------------------------------------------------------------------------------


def test_two_hundred_thousand_random_steps() -> None:
    counts = run(200_000, seed=1)
    print(dict(counts))
    assert counts["steps"] >= 200_000
    for event in ("aborted", "preempted", "dropped drafts", "refused", "hits", "waits"):
        assert counts[event] > 100, f"the trace has too few: {event}"


class Leaks(Scheduler):
    """An aborted request keeps its blocks."""

    def _release(self, request: Request) -> None:
        if request.finish_reason == "abort":
            request.num_blocks = 0
        super()._release(request)


class LeaksDrafts(Scheduler):
    """Blocks of rejected drafts stay with their request."""

    def _take(self, request, span, result):  # type: ignore[no-untyped-def]
        before = request.num_blocks
        reason = super()._take(request, span, result)
        if reason is None and before <= request.num_blocks + self.num_free:
            self._hold(request, before)
        return reason


class NeverAges(Scheduler):
    """Priority is all that counts."""

    def _rank(self, request: Request) -> int:
        return -request.priority


class AgesBackwards(Scheduler):
    """The latest of one priority comes first."""

    def _rank(self, request: Request) -> int:
        return -request.arrival - request.priority * self.age_steps


class OverCommits(Scheduler):
    """It believes in one block more than there is."""

    def __init__(self, num_blocks: int, *numbers: int):
        super().__init__(num_blocks, *numbers)
        self.num_free += 1


class CountsNoDrafts(Scheduler):
    """Drafts take no blocks."""

    def _drafts(self, request: Request) -> Sequence[int]:
        return request.drafts


class DropsAllDrafts(Scheduler):
    """Drafts that need a block are dropped, even if one is free."""

    def _drafts(self, request: Request) -> Sequence[int]:
        return request.drafts[: request.num_blocks * 128 - request.num_tokens]


class PreemptsTheFirst(Scheduler):
    """The request of highest priority gives its blocks back."""

    def _preempt(self, request: Request) -> None:
        self.running.append(request)
        super()._preempt(self.running.pop(0))


class SkipsAhead(Scheduler):
    """The smallest waiting request is admitted first."""

    def _admit(self, prompts: list[Request], rows: int, find: Find) -> list[Request]:
        self.waiting.sort(key=attrgetter("num_tokens"))
        prompts = super()._admit(prompts, rows, find)
        self.waiting.sort(key=attrgetter("rank"))
        return prompts


class PromptsFirst(Scheduler):
    """While a prompt is read, a decode stands still."""

    def schedule(self, find: Find = find_nothing) -> Plan:
        plan = super().schedule(find)
        if any(not span.wanted for span in plan.spans) and plan.spans[0].wanted:
            self._plan = Plan(plan.spans[1:], plan.released)
        assert self._plan is not None
        return self._plan


class ForgetsToRelease(Scheduler):
    """The runner is not told of a preemption."""

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        self._released.pop()


class KeepsItsPlace(Scheduler):
    """A preempted request goes on where it was, without the tokens that it gave back."""

    def _preempt(self, request: Request) -> None:
        cached = request.num_cached
        super()._preempt(request)
        self.place = request, cached

    def _admit(self, prompts: list[Request], rows: int, find: Find) -> list[Request]:
        request, cached = getattr(self, "place", (None, 0))
        return super()._admit(prompts, rows, lambda other: cached if other is request else find(other))


MUTANTS = {
    Leaks: "the scheduler counts", LeaksDrafts: "blocks, not",
    NeverAges: "of higher priority|starves|the wrong request", AgesBackwards: "of higher priority|the wrong request",
    OverCommits: "the scheduler counts", CountsNoDrafts: "blocks, not",
    DropsAllDrafts: "a block had room|with blocks free", PreemptsTheFirst: "the wrong request",
    SkipsAhead: "of higher priority", PromptsFirst: "could decode", ForgetsToRelease: "decode|tokens|blocks",
    KeepsItsPlace: "other tokens",
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_scheduler_is_caught(mutant: type[Scheduler]) -> None:
    def make(bounds: Bounds) -> Scheduler:
        return scheduler_of(bounds, mutant)

    with pytest.raises(AssertionError, match=MUTANTS[mutant]):
        run(200_000, seed=1, make=make)


def test_the_bound_alone_catches_a_scheduler_that_never_ages() -> None:
    """One urgent request after another, one place: the watch's other check of the order is not needed to see it."""
    for kind, starves in ((Scheduler, False), (NeverAges, True)):
        bounds = Bounds(2, 1, 200, 0, 4, 5, 10)
        scheduler = scheduler_of(bounds, kind)
        watch = Watch(scheduler, bounds)
        old = Request("old", range(5), 5)
        requests = [old, *(Request(number, range(5), 1, 5) for number in range(1000))]
        scheduler.add(old), watch.added(old)
        seen = False
        for request in requests[1:]:
            scheduler.add(request), watch.added(request)
            plan = scheduler.schedule()
            watch.clock += 1
            watch._settle()
            outputs = scheduler.complete(plan, [Result([1]) for _ in plan.spans])
            for output in outputs:
                if output.finish_reason:
                    watch.alive.pop(output.request.id).ended = True
            try:
                watch._ended_in_flight()
            except AssertionError as error:
                assert "request old starves" in str(error)
                seen = True
                break
        assert seen == starves


def test_a_block_is_the_caches() -> None:
    assert scheduler_file.BLOCK_TOKENS == BLOCK_TOKENS
    assert [blocks_of(num_tokens) for num_tokens in (1, 127, 128, 129)] == [1, 1, 1, 2]


@pytest.mark.parametrize("file", [request_file, scheduler_file])
def test_no_torch(file: object) -> None:
    """The decisions import nothing but the standard library and each other."""
    tree = ast.parse(Path(file.__file__).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(not name.startswith("wavefold") or name == "wavefold.engine.request" for name in names if name)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
