"""A worker over a queue: each line has one result, and who comes first."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.working import Answering, added, answer_of, line, work
from wavefold.atomic import holding
from wavefold.jobs import board
from wavefold.jobs.desk import Desk
from wavefold.jobs.order import num_swaps
from wavefold.jobs.queue import Queue, Wanted
from wavefold.jobs.quiet import QuietHours
from wavefold.jobs.schema import NoQueue, NotNow
from wavefold.jobs.summary import summary_of


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "jobs", create=True) as queue:
        yield queue


def results(queue: Queue, batch: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(text) for text in queue.results(queue.batch(batch)["number"])]


def test_results_are_those_of_the_lines(queue: Queue) -> None:
    batch = added(queue, [line(f"line {number}", "AB"[number % 2]) for number in range(40)])
    answer = Answering()
    work(queue, answer)
    for number, result in enumerate(results(queue, batch)):
        assert result["custom_id"] == f"line {number}" and result["error"] is None
        body = json.dumps({"model": "AB"[number % 2], "prompt": f"line {number}"})
        assert result["response"] == {"status_code": 200, "request_id": "req_1", "body": answer_of(body)}
    assert len(answer.asked) == 40 and answer.most == 4
    assert num_swaps([model for model, _ in answer.asked], None) == 2
    summary = summary_of(queue, queue.batch(batch))
    assert (summary.total, summary.completed, summary.failed, summary.row["state"]) == (40, 40, 0, "completed")
    assert summary.usage == (120, 40, 80, 0) and summary.row["swaps"] == 2 and summary.left_s is None
    output = queue.file(queue.batch(batch)["output_file"])
    assert output["bytes"] == len(b"".join(queue.content(output["id"]))) and queue.batch(batch)["error_file"] is None


def test_whose_fault_a_failure_is(queue: Queue) -> None:
    lines = [line("wrong", status=400), line("absent", status=404), line("busy", fails=(503, 2)),
             line("full", fails=(429, 1)), line("faulty", fails=(500, 2)), line("raises", fails=(0, 1)),
             line("broken", fails=(500, 99)), line("no model", fails=(503, 99), code="model_not_loaded"),
             line("right")]  # fmt: skip
    batch = added(queue, lines)
    answer = Answering()
    work(queue, answer)
    by_id = {result["custom_id"]: result["response"]["status_code"] for result in results(queue, batch)}
    assert by_id == {"wrong": 400, "absent": 404, "busy": 200, "full": 200, "faulty": 200, "raises": 200,
                     "broken": 500, "no model": 503, "right": 200}  # fmt: skip
    times = {custom_id: sum(asked == custom_id for _, asked in answer.asked) for custom_id in by_id}
    assert times == {"wrong": 1, "absent": 1, "busy": 3, "full": 2, "faulty": 3, "raises": 2, "broken": 3,
                     "no model": 3, "right": 1}  # fmt: skip
    row = queue.batch(batch)
    errors = [json.loads(text)["custom_id"] for text in b"".join(queue.content(row["error_file"])).splitlines()]
    assert errors == ["wrong", "absent", "broken", "no model"]
    assert queue.file(row["error_file"])["bytes"] == len(b"".join(queue.content(row["error_file"])))


def test_a_higher_priority_is_first_and_models_go_on(queue: Queue) -> None:
    for priority, models in ((0, "ABC"), (5, "CA"), (0, "B")):
        added(queue, [line(f"{priority} {model} {number}", model) for model in models for number in range(3)],
              Wanted(priority=priority))  # fmt: skip
    answer = Answering()
    work(queue, answer)
    assert [asked[0] for _, asked in answer.asked] == ["5"] * 6 + ["0"] * 12
    assert num_swaps([model for model, _ in answer.asked], None) == 4
    assert sum(row["swaps"] for row in queue.batches()) == 4


def test_nothing_is_begun_while_others_ask(queue: Queue) -> None:
    added(queue, [line(str(number)) for number in range(8)])
    answer = Answering(0.01)
    begun = time.monotonic()
    work(queue, answer, until=lambda: time.monotonic() > begun + 0.3, may_go_on=lambda: False)
    assert answer.asked == []
    work(queue, answer, may_go_on=lambda: answer.now == 0)  # one at a time then
    assert len(answer.asked) == 8


def test_lines_give_way_and_are_done_later(queue: Queue) -> None:
    """Somebody waits for another model twice; a line that was taken back counts as not begun."""
    batch = added(queue, [line(str(number), seconds=0.1) for number in range(4)])
    answer, waits = Answering(), [True, True]
    work(queue, answer, gives_way=lambda: answer.now > 0 and bool(waits) and waits.pop())
    assert len(answer.asked) > 4 and len(results(queue, batch)) == 4
    assert [tuple(row) for row in queue.rows("SELECT state, attempts FROM lines")] == [(2, 1)] * 4


def test_a_line_gives_way_three_times_at_most(queue: Queue) -> None:
    batch = added(queue, [line("only", seconds=0.2)])
    answer = Answering()
    work(queue, answer, gives_way=lambda: answer.now > 0)
    assert len(answer.asked) == 4 and len(results(queue, batch)) == 1


def test_quiet_hours(queue: Queue) -> None:
    quiet = added(queue, [line("quiet")], Wanted(quiet=QuietHours.parse("22:00-07:00"), priority=9))
    added(queue, [line("any")])
    noon = time.mktime((2030, 1, 15, 12, 0, 0, 0, 0, -1))
    night = time.mktime((2030, 1, 15, 23, 0, 0, 0, 0, -1))
    answer = Answering()
    work(queue, answer, until=lambda: len(queue.batches()) == 2 and queue.batches()[0]["state"] == "completed",
         clock=lambda: noon)  # fmt: skip
    assert answer.asked == [("A", "any")] and queue.batch(quiet)["state"] == "in_progress"
    work(queue, answer, clock=lambda: night)
    assert answer.asked[1:] == [("A", "quiet")]


def test_what_a_model_that_cannot_answer_says_is_told(queue: Queue) -> None:
    """Until a line is answered, or no line waits for it any more."""
    answer, said = Answering(), []
    batch = added(queue, [line("busy", fails=(503, 1000))])

    def is_told() -> bool:
        worker = board.look(queue.folder)
        said.append(worker and worker["paused"])
        if said[-1] and queue.batch(batch)["state"] == "in_progress":
            queue.cancel(batch)
        return said[-1] is None and any(said)

    worker = work(queue, answer, until=is_told)
    assert "model A cannot answer for now: not now" in said and worker.refused is None


def test_a_stop_leaves_lines_as_not_begun(queue: Queue) -> None:
    batch = added(queue, [line("quick"), *(line(str(number), seconds=60) for number in range(6))])
    answer = Answering()
    work(queue, answer, until=lambda: answer.now == 4 and len(answer.asked) == 5)
    assert [result["custom_id"] for result in results(queue, batch)] == ["quick"]
    assert [tuple(row) for row in queue.rows("SELECT state, attempts FROM lines ORDER BY place")] == [
        (2, 1), *[(0, 0)] * 6
    ]  # fmt: skip
    assert summary_of(queue, queue.batch(batch)).parts[0].under_way == 0


def test_a_cancelled_batch_keeps_what_it_has(queue: Queue) -> None:
    batch = added(queue, [line("quick"), *(line(str(number), seconds=60) for number in range(6))])
    other = added(queue, [line("other")])
    answer = Answering()

    def is_time() -> bool:
        if len(answer.asked) == 5 and queue.batch(batch)["state"] == "in_progress":
            with Queue(queue.folder) as another:
                assert another.cancel(batch) and not another.cancel(batch)
        return queue.batch(other)["state"] == "completed"

    work(queue, answer, until=is_time)
    assert answer.now == 0 and queue.batch(batch)["state"] == "cancelled"
    assert b'"quick"' in b"".join(queue.content(queue.batch(batch)["output_file"]))
    assert len(results(queue, batch)) == 1


def test_lines_of_a_cancelled_batch_end_where_a_write_failed(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = added(queue, [line(str(number), seconds=600) for number in range(3)])
    answer, turn, failures = Answering(), Desk.turn, [NotNow("the disk is full")]

    def failing(desk: Desk, *arguments: Any, **more: Any) -> Any:
        if queue.batch(batch)["state"] != "in_progress" and failures:
            raise failures.pop()
        return turn(desk, *arguments, **more)

    def is_time() -> bool:
        if len(answer.asked) == 3 and queue.batch(batch)["state"] == "in_progress":
            with Queue(queue.folder) as another:
                another.cancel(batch)
                added(another, [line("late")])  # it wants a write in the turn that sees the batch's end
        return answer.now == 0 and not failures

    monkeypatch.setattr(Desk, "turn", failing)
    work(queue, answer, until=is_time)
    assert queue.batch(batch)["state"] == "cancelled"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_queue_that_is_removed_is_not_worked_on(queue: Queue, is_replaced: bool) -> None:
    """A worker would write results to a file that nobody can open any more."""
    added(queue, [line("a", seconds=60)])
    answer, was_removed = Answering(), []

    def remove() -> bool:
        if answer.now and not was_removed:
            was_removed.append(True)
            shutil.rmtree(queue.folder)
            if is_replaced:
                Queue(queue.folder, create=True).close()
        return False

    with pytest.raises(NoQueue, match="was removed or replaced while this process worked on it"):
        work(queue, answer, until=remove)
    assert was_removed


def test_one_process_works(queue: Queue) -> None:
    with holding(queue.folder / board.LOCK), pytest.raises(ValueError, match="is held by process"):
        work(queue, Answering(), until=lambda: False)
    assert board.look(queue.folder) is None


def test_lines_that_are_added_are_found(queue: Queue) -> None:
    answer = Answering()
    batches: list[str] = []

    def is_time() -> bool:
        if not batches and (said := board.look(queue.folder)) is not None and said["process"]:
            with Queue(queue.folder) as another:
                batches.append(added(another, [line("late")]))
        return bool(batches) and queue.batch(batches[0])["state"] == "completed"

    work(queue, answer, until=is_time)
    assert answer.asked == [("A", "late")]
