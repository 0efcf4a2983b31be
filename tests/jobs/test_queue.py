"""The queue's database and files: what is refused, what is kept, what a full disk leaves."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.kills import forked
from tests.jobs.working import Answering, added, line, work, write_lines
from wavefold.jobs import files, lines
from wavefold.jobs.desk import MOST_DEATHS, Desk
from wavefold.jobs.files import TooLarge, Upload, sweep
from wavefold.jobs.lines import MOST_LINE, LineError, line_of, numbered, object_of
from wavefold.jobs.queue import Invalid, Queue, Wanted
from wavefold.jobs.quiet import QuietHours
from wavefold.jobs.schema import Damaged, NotNow
from wavefold.jobs.worker import Worker


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "jobs", create=True) as queue:
        yield queue


@contextlib.contextmanager
def full_disk(queue: Queue) -> Iterator[None]:
    """A block in which no file may grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((queue.folder / "queue.db-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestDatabase:
    def test_it_is_durable_and_private(self, queue: Queue) -> None:
        added(queue, [line("a")])
        assert [queue.rows(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")] == ["wal", 2]
        (queue.folder / "lines.jsonl").unlink()  # the test's own
        found = [queue.folder, *queue.folder.rglob("*")]
        assert {path.stat().st_mode & 0o777 for path in found} == {0o700, 0o600}

    def test_a_damaged_one_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        with Queue(tmp_path, create=True) as queue:
            added(queue, [line(f"line {number}", pad="x" * 500) for number in range(200)])
            queue.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        path = tmp_path / "queue.db"
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 8192] = os.urandom(8192)
        path.write_bytes(data)
        with Queue(tmp_path) as queue, pytest.raises(Damaged, match=r"is damaged .* move .* away"):
            work(queue, Answering())
        path.write_bytes(b"no database" * 1000)
        with pytest.raises(Damaged, match=r"move .* away, and add its batches again"):
            Queue(tmp_path)

    @pytest.mark.parametrize("statement", ["PRAGMA user_version = 2", "PRAGMA application_id = 7"])
    def test_another_one_is_refused(self, tmp_path: Path, statement: str) -> None:
        with Queue(tmp_path, create=True) as queue:
            queue.rows(statement)
        with pytest.raises(Damaged, match="is no queue of this version"):
            Queue(tmp_path, create=True)

    def test_a_database_of_something_else_stays_as_it_is(self, tmp_path: Path) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as other:
            other.execute("CREATE TABLE mine (a)")
            other.commit()
        with pytest.raises(Damaged, match="is no queue"):
            Queue(tmp_path, create=True)

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no queue"):
            Queue(tmp_path / "none")
        assert not (tmp_path / "none").exists()

    def test_several_processes_make_it_and_write_at_once(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "lines", [line(f"line {number}") for number in range(20)])

        def add() -> None:
            for _ in range(5):
                with Queue(tmp_path / "jobs", create=True) as queue:
                    queue.add(queue.keep(path))

        processes = [forked(add) for _ in range(4)]
        assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0] * 4
        with Queue(tmp_path / "jobs") as queue:
            assert len(queue.batches()) == len(queue.files()) == 20
            assert queue.rows("PRAGMA integrity_check")[0][0] == "ok"


class TestFullDisk:
    def test_nothing_of_a_change_is_kept(self, queue: Queue) -> None:
        path = write_lines(queue.folder / "lines.jsonl", [line(f"line {n}", pad="x" * 900) for n in range(3000)])
        file = queue.keep(path)
        with full_disk(queue), pytest.raises(NotNow, match=r"queue\.db"):
            queue.add(file)
        with full_disk(queue), pytest.raises(NotNow, match="is full"):
            queue.keep(path)
        assert queue.batches() == [] and [row["id"] for row in queue.files()] == [file]
        assert [entry.name for entry in (queue.folder / "files").iterdir()] == [file]
        assert queue.batch(queue.add(file))["state"] == "in_progress"

    def test_a_worker_waits_until_there_is_room(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        """The results that it has are recorded then, and no line is asked twice."""
        added(queue, [line(str(number), pad="x" * 3000, seconds=0.01) for number in range(400)])
        answer, limits = Answering(), contextlib.ExitStack()
        said: list[str] = []

        def is_done() -> bool:
            if len(answer.asked) > 20 and not said:
                said.append("filled")
                limits.enter_context(full_disk(queue))
            return queue.batches()[0]["state"] == "completed"

        original = Worker._pause

        def pause(self: Worker, error: NotNow) -> None:
            original(self, error)
            said.append(str(self.paused))
            if len(said) == 3:
                limits.close()

        monkeypatch.setattr(Worker, "_pause", pause)
        with limits:
            work(queue, answer, until=is_done)
        assert len(said) >= 3 and "queue.db" in said[1]
        assert len(answer.asked) == len(set(answer.asked)) == 400


class TestFiles:
    def test_what_a_killed_writer_left_is_removed(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "YOUNG_S", -1.0)
        kept = queue.keep(write_lines(queue.folder / "lines.jsonl", [line("a")]))
        place = queue.folder / "files"
        (place / ".upload-killed").write_bytes(b"half")
        (place / "file-without-row").write_bytes(b"whole")
        with Upload(queue.folder) as upload:
            upload.write(b"of a living process")
            assert sweep(queue.connection, queue.folder) == 2
            assert sorted(path.name for path in place.iterdir()) == sorted([upload._path.name, kept])
        assert [path.name for path in place.iterdir()] == [kept]

    def test_one_that_is_too_large(self, queue: Queue) -> None:
        with Upload(queue.folder, 10) as upload:
            upload.write(b"1234567890")
            with pytest.raises(TooLarge, match="larger than 10 bytes"):
                upload.write(b"1")
        assert list((queue.folder / "files").iterdir()) == []

    def test_results_have_no_batch_of_their_own(self, queue: Queue) -> None:
        batch = added(queue, [line("a")])
        work(queue, Answering())
        output = queue.batch(batch)["output_file"]
        with pytest.raises(ValueError, match="holds results"):
            queue.add(output)
        queue.delete_file(queue.batch(batch)["input_file"])
        assert json.loads(b"".join(queue.content(output)))["custom_id"] == "a"
        queue.remove(batch)
        assert queue.files() == [] and queue.rows("SELECT 1 FROM lines") == queue.rows("SELECT 1 FROM results") == []

    def test_nothing_is_left_of_what_is_removed(self, queue: Queue) -> None:
        batch = added(queue, [line(f"secret {number}", pad="secret" * 300) for number in range(50)])
        work(queue, Answering())
        (queue.folder / "lines.jsonl").unlink()
        command = ["grep", "-rl", "secret", str(queue.folder)]  # another process: closing a file drops SQLite's locks
        assert subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout
        queue.remove(batch)
        assert not subprocess.run(command, check=False, stdout=subprocess.PIPE).stdout


class TestLines:
    @pytest.mark.parametrize(("change", "code"), [
        ({"custom_id": 1}, "invalid_custom_id"), ({"custom_id": ""}, "invalid_custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id"), ({"method": "GET"}, "invalid_method"),
        ({"url": "/v1/embeddings"}, "invalid_url"), ({"url": "/v1/responses"}, "invalid_url"),
        ({"body": []}, "missing_required_parameter"), ({"body": {}}, "missing_required_parameter"),
        ({"body": {"model": 1}}, "missing_required_parameter"), ({"other": 1}, "unknown_parameter"),
        ({"body": {"model": "A", "stream": True}}, "invalid_value"),
    ])  # fmt: skip
    def test_what_is_wrong_with_one(self, change: dict[str, object], code: str) -> None:
        with pytest.raises(LineError, match="line 7: ") as error:
            line_of(7, {**line("a"), **change}, "/v1/completions")
        assert (error.value.code, error.value.line) == (code, 7)

    def test_a_method_is_missing_or_another_one(self) -> None:
        bare = {name: value for name, value in line("a").items() if name != "method"}
        for values, message in (
            (bare, "method is missing; expected POST"),
            ({**bare, "method": "GET"}, "method = 'GET' is not allowed; expected POST"),
        ):
            with pytest.raises(LineError, match=message):
                line_of(7, values)

    def test_half_a_character_is_replaced(self, queue: Queue) -> None:
        batch = added(queue, [line("\ud800", "\ud800", prompt="\ud800")])
        assert [row["model"] for row in queue.groups(queue.batch(batch)["number"])] == ["?"]
        work(queue, Answering())
        assert json.loads(b"".join(queue.results(queue.batch(batch)["number"])))["custom_id"] == "?"

    def test_one_is_kept_in_the_bytes_that_it_came_in(self, queue: Queue) -> None:
        """Escapes would make six bytes of two: a line that was small enough would be too large for its server."""
        text = "слово " * 1000 + "😀\u2028\u0085"
        body = {"model": "m", "prompt": text}
        data = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body},
                          ensure_ascii=False, separators=(",", ":")).encode()  # fmt: skip
        read = line_of(1, object_of(1, data))
        assert json.loads(read.body) == body and len(read.body.encode()) < len(data)
        half = line_of(1, object_of(1, data.replace("😀".encode(), b"\\ud83d")))
        assert json.loads(half.body)["prompt"] == text.replace("😀", "\ud83d") and half.body.isascii()
        with pytest.raises(LineError, match=r"has a body of 8,388,6.. bytes; expected 8,388,608 at most"):
            line_of(1, {"custom_id": "a", "method": "POST", "url": "/v1/completions",
                        "body": {**body, "prompt": "x" * (MOST_LINE - 20)}})  # fmt: skip

    def test_one_that_is_too_long_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lines, "MOST_LINE", 100)
        (tmp_path / "lines").write_bytes(b"a" * 99 + b"\n\n" + b"b" * 1000)
        with (tmp_path / "lines").open("rb") as file:
            found = numbered(file)
            assert next(found) == (1, b"a" * 99 + b"\n")
            with pytest.raises(LineError, match="line 3: has more than 100 bytes"):
                next(found)

    def test_all_errors_of_a_file_are_told(self, queue: Queue) -> None:
        path = queue.folder / "lines.jsonl"
        path.write_bytes(b"{\n[]\n\xff\n" + b"[" * 100_000 + b"\n")
        with pytest.raises(Invalid, match=r"line 1: is no JSON .* 3 more errors") as error:
            queue.add(queue.keep(path))
        assert [one.line for one in error.value.errors] == [1, 2, 3, 4] and queue.batches() == []


def test_a_line_that_ends_every_process_gets_a_result(queue: Queue) -> None:
    """And until then it is the last one of its model."""
    batch = added(queue, [line("deadly"), line("a"), line("b")])
    desk, now = Desk(queue), time.time()
    for death in range(MOST_DEATHS):
        taken = desk.turn(room=3 if death else 1, now=now)
        assert taken[-1 if death else 0].custom_id == "deadly"
        desk.turn(returned={one: False for one in taken if one.custom_id != "deadly"})
        Desk(queue).begin()
    (result,) = [json.loads(text) for text in queue.results(queue.batch(batch)["number"])]
    assert result["custom_id"] == "deadly" and result["response"]["status_code"] == 500
    assert "has died each time, 20 times" in result["response"]["body"]["error"]["message"]
    work(queue, Answering())
    assert queue.batch(batch)["state"] == "completed"


class TestQuietHours:
    @pytest.mark.parametrize(("text", "allowed", "refused"), [
        ("22:00-07:00", (1320, 1439, 0, 419), (420, 1319)), ("9:30-17:00", (570, 1019), (569, 1020, 0)),
        ("20:00-24:00", (1200, 1439), (0, 1199)), ("00:00-24:00", (0, 1439), ()),
    ])  # fmt: skip
    def test_which_minutes_they_are(self, text: str, allowed: tuple[int, ...], refused: tuple[int, ...]) -> None:
        hours = QuietHours.parse(text)
        assert QuietHours.parse(str(hours)) == hours
        assert all(map(hours.allow, allowed)) and not any(map(hours.allow, refused))

    @pytest.mark.parametrize("text", ["", "22-7", "24:00-01:00", "10:60-11:00", "10:00-10:00", "10:00-24:01"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="are not allowed"):
            QuietHours.parse(text)


def test_priorities_out_of_range(queue: Queue) -> None:
    with pytest.raises(ValueError, match="-1000 to 1000"):
        added(queue, [line("a")], Wanted(priority=1001))
