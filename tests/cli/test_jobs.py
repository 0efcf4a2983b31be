"""`wavefold jobs`: what people type, and what they are told."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from tests.jobs.working import Answering, added, line, work, write_lines
from wavefold.atomic import holding
from wavefold.cli.main import main
from wavefold.jobs import board
from wavefold.jobs.desk import Desk
from wavefold.jobs.queue import Queue
from wavefold.jobs.reasons import why_failed
from wavefold.jobs.worker import Answered

LINES = [
    "def f(", {"prompt": "a", "id": "second", "temperature": 0}, {"messages": [{"role": "user", "content": "Hi"}]},
    {"custom_id": "fourth", "method": "POST", "url": "/v1/responses", "body": {"model": "own", "input": "Hi"}},
]  # fmt: skip


def typed(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str, str]:
    code = main(["jobs", words[0], "--jobs", str(folder), *words[1:]])
    return code, *capsys.readouterr()


def shown(capsys: pytest.CaptureFixture[str], folder: Path, batch: str) -> str:
    return typed(capsys, folder, "show", batch)[1]


def test_from_a_file_to_its_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, folder = write_lines(tmp_path / "in.jsonl", LINES), tmp_path / "jobs"
    code, out, err = typed(capsys, folder, "add", str(path), "--model", "M", "--priority", "3", "--quiet-hours",
                           "00:00-24:00")  # fmt: skip
    batch = out.strip()
    assert code == 0 and batch.startswith("batch_") and "4 lines" in err and "wavefold serve --jobs" in err
    with Queue(folder) as queue:
        bodies = [(row["path"], json.loads(row["body"])) for row in queue.rows("SELECT * FROM lines ORDER BY place")]
    assert bodies == [
        ("/v1/completions", {"model": "M", "prompt": "def f(", "max_tokens": 256}),
        ("/v1/completions", {"model": "M", "prompt": "a", "temperature": 0, "max_tokens": 256}),
        ("/v1/chat/completions", {"model": "M", "messages": LINES[2]["messages"], "max_tokens": 256}),  # type: ignore[index]
        ("/v1/responses", {"model": "M", "input": "Hi"}),
    ]
    _, out, _ = typed(capsys, folder, "ls")
    assert batch in out and "in_progress" in out and "00:00-24:00" in out
    with Queue(folder) as queue:
        _answered(queue)
    _, out, err = typed(capsys, folder, "show", batch[:12])
    for text in (batch, "completed", "4: 4 done, 0 failed, 0 left", "12 read (4 of them cached), 8 written",
                 "1 change of the model", "  M: 4 done, 0 failed; ", "priority    3"):  # fmt: skip
        assert text in out
    assert "waits" not in out and not err
    code, out, err = typed(capsys, folder, "results", batch)
    assert [json.loads(text)["custom_id"] for text in out.splitlines()] == ["1", "second", "3", "fourth"] and not err
    to_file = ("results", batch, "--out", str(tmp_path / "out.jsonl"))
    assert typed(capsys, folder, *to_file) == (0, "", f"4 results in {tmp_path / 'out.jsonl'}\n")
    assert (tmp_path / "out.jsonl").read_text() == out
    (tmp_path / "out.jsonl").write_text("mine")
    code, _, err = typed(capsys, folder, *to_file)
    assert code == 2 and "--force to replace it" in err and (tmp_path / "out.jsonl").read_text() == "mine"
    assert typed(capsys, folder, *to_file, "--force")[0] == 0 and (tmp_path / "out.jsonl").read_text() == out
    assert typed(capsys, folder, "rm", batch)[0] == 0
    assert batch not in typed(capsys, folder, "ls")[1] and list((folder / "files").iterdir()) == []
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o600}


def _answered(queue: Queue) -> None:
    class Anything(Answering):
        async def __call__(self, path: str, body: str):  # type: ignore[no-untyped-def]
            values = json.loads(body)
            return await super().__call__(path, json.dumps({"model": values["model"], "prompt": body}))

    work(queue, Anything())


def test_a_batch_is_cancelled(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    path = write_lines(tmp_path / "in.jsonl", LINES[:2])
    batch = typed(capsys, folder, "add", str(path), "--model", "M")[1].strip()
    code, _, err = typed(capsys, folder, "rm", batch)
    assert code == 2 and "has not ended; cancel it first" in err
    _, out, err = typed(capsys, folder, "results", batch)
    assert out == "" and "results so far" in err
    assert typed(capsys, folder, "cancel", batch)[0] == 0
    code, _, err = typed(capsys, folder, "cancel", batch)
    assert code == 2 and "is cancelled; expected one that runs" in err
    out = typed(capsys, folder, "show", batch)[1]
    assert (
        "cancelled" in out and "2: 0 done, 0 failed, 2 not done" in out and "  M: 0 done, 0 failed, 2 not done; " in out
    )
    assert "left" not in out and "wait" not in out


class TestWhyItDoesNotGoOn:
    def test_what_the_worker_says(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        folder, path = tmp_path / "jobs", str(write_lines(tmp_path / "in", LINES[:1]))
        _, out, err = typed(capsys, folder, "add", path, "--model", "M")
        batch = out.strip()
        assert "1 line in" in err
        assert f"waits       no process works on the queue; `wavefold serve --jobs {folder}`" in shown(
            capsys, folder, batch
        )
        with holding(folder / board.LOCK):
            board.say(folder, "the disk is full")
            assert "waits       the disk is full\n" in shown(capsys, folder, batch)
            assert "paused: the disk is full" in typed(capsys, folder, "ls")[2]
            board.say(folder, None)
            assert "a process works on it" in typed(capsys, folder, "add", path, "--model", "M")[2]
            assert "waits       none of its lines is under way; answers of clients" in shown(capsys, folder, batch)
            with Queue(folder) as queue:
                Desk(queue).turn(room=1)
            assert "waits  " not in shown(capsys, folder, batch)

    def test_quiet_hours_priorities_and_models(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        folder, path, now = tmp_path / "jobs", str(write_lines(tmp_path / "in", LINES[:1])), time.time()
        hours = [time.strftime("%H:%M", time.localtime(now + later)) for later in (7200, 10_800)]

        def add(*words: str) -> str:
            return typed(capsys, folder, "add", path, "--model", "M", *words)[1].strip()

        quiet, usual = add("--quiet-hours", "-".join(hours), "--priority", "9"), add()
        with holding(folder / board.LOCK):
            board.say(folder, None)
            found = shown(capsys, folder, quiet)
            assert f"waits       its quiet hours are {'-'.join(hours)}, and it is " in found
            assert "is first" not in shown(capsys, folder, usual)
            above = add("--priority", "5")
            assert f"waits       {above} is first: its priority is 5" in shown(capsys, folder, usual)
            with Queue(folder) as queue:
                assert len(Desk(queue).turn(room=2)) == 1
                assert typed(capsys, folder, "cancel", usual)[0] == 0
            other = typed(capsys, folder, "add", path, "--model", "N")[1].strip()
            assert "waits       lines of model M are under way" in shown(capsys, folder, other)

    def test_models_that_are_not_served(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        folder, models, path = tmp_path / "jobs", tmp_path / "models", str(write_lines(tmp_path / "in", LINES[:1]))
        for name in ("one", "two"):
            (models / name).mkdir(parents=True)
            (models / name / "config.json").write_text("{}")
            (models / name / "model.safetensors").write_bytes(b"")
        mixed = str(
            write_lines(tmp_path / "mixed", [{"prompt": "a", "model": name} for name in ("one", "nope", "two")])
        )
        batch = typed(capsys, folder, "add", path, "--model", "nope")[1].strip()
        assert batch, "nobody knows yet what will be served"
        _, _, err = typed(capsys, folder, "add", path, "--model", "nope", "--models", str(models))
        assert "--model nope is not served; expected one of one, two" in err
        for offer in (str(models), ["one", "two"]):
            with holding(folder / board.LOCK):
                board.say(folder, None, offer)
                _, _, err = typed(capsys, folder, "add", path, "--model", "nope")
                assert "--model nope is not served; expected one of one, two" in err
                _, _, err = typed(capsys, folder, "add", mixed)
                assert "line 2: model 'nope' is not served; expected one of one, two" in err
                assert typed(capsys, folder, "add", mixed, "--model", "one")[0] == 0
                found = shown(capsys, folder, batch)
                assert "  nope: 0 done, 0 failed, 0 under way, 1 wait, this model is not served, so its" in found


def test_why_lines_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent reasons, whatever numbers stand in them."""
    folder = tmp_path / "jobs"
    path = write_lines(tmp_path / "in", [{"prompt": str(number), "model": "M"} for number in range(9)])
    batch = typed(capsys, folder, "add", str(path))[1].strip()

    async def answer(path: str, body: str) -> Answered:
        number = int(json.loads(body)["prompt"])
        message = f"{number} tokens are too many" if number < 4 else f"reason {'abcdefgh'[number - 4]}"
        return (
            Answered(400 if number < 4 else 404, {"error": {"message": message}}) if number < 8 else Answered(200, {})
        )

    with Queue(folder) as queue:
        work(queue, answer)
    found = shown(capsys, folder, batch)
    assert "  4 lines failed with status 400: 0 tokens are too many\n" in found
    assert found.count("  1 line failed with status 404: reason ") == 4 and "more failed" not in found
    monkeypatch.setattr("wavefold.cli.jobs.MOST_REASONS", 2)
    assert "  3 lines more failed; `wavefold jobs results` has them" in shown(capsys, folder, batch)
    monkeypatch.setattr("wavefold.jobs.reasons.why_failed", partial(why_failed, most_read=3))
    found = shown(capsys, folder, batch)  # lines beyond those that are read are counted
    assert "  3 lines failed with status 400: " in found and "  5 lines more failed; " in found


def test_a_damaged_queue_is_not_shown_as_a_whole_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Also where the damage is in what is not shown."""
    folder = tmp_path / "jobs"
    lines = [{"prompt": "x" * 500, "model": "M"} for _ in range(200)]
    batch = typed(capsys, folder, "add", str(write_lines(tmp_path / "in", lines)))[1].strip()
    data = bytearray((folder / "queue.db").read_bytes())
    place = data.rindex(b"x" * 400)
    data[place - 3000 : place + 5000] = os.urandom(8000)
    (folder / "queue.db").write_bytes(data)
    for words in (("ls",), ("show", batch)):
        code, out, err = typed(capsys, folder, *words)
        assert code == 2 and batch in out
        assert f"{folder}/queue.db: is damaged" in err and f"move {folder} away, and add its batches again" in err


def test_the_check_ends_in_time(tmp_path: Path) -> None:
    lines = [line(str(number), pad="x" * 500) for number in range(2000)]
    with Queue(tmp_path / "jobs", create=True) as queue:
        added(queue, lines)
        assert not queue.check(-1.0) and queue.check(60.0)
        assert queue.rows("SELECT count(*) FROM lines")[0][0] == 2000


def test_many_faults_of_one_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, path = tmp_path / "jobs", write_lines(tmp_path / "in", [{"prompt": "a"}] * 40)
    _, _, err = typed(capsys, folder, "add", str(path))
    assert err.count("names no model") == 3 and "and 37 lines more with the same fault" in err
    path.write_text("def f(\n" * 200)
    _, _, err = typed(capsys, folder, "add", str(path), "--model", "M")
    assert err.count("is no JSON") == 3 and 'expected a text in quotes, as "def f(", or {"prompt": ...}' in err
    assert "and 97 lines more with the same fault" in err and "the file was read to its 100th fault" in err


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, good = tmp_path / "jobs", str(write_lines(tmp_path / "good", LINES[:1]))
    bad = str(
        write_lines(
            tmp_path / "bad", [{"prompt": "a", "json_schema": {}}, [1], {"id": "x"}, "a", {"id": 4, "prompt": ""}]
        )
    )
    assert typed(capsys, folder, "ls")[0] == 2
    for words, message in (
        (("add", good), "names no model; expected \"model\" in the line, or in its body"),
        (("add", good, "--model", "M", "--priority", "1001"), "-1000 to 1000"),
        (("add", good, "--model", "M", "--quiet-hours", "22-7"), "as 22:00-07:00"),
        (("add", str(tmp_path / "none"), "--model", "M"), "No such file"),
        (("add", bad, "--model", "M"), "line 1: json_schema is not known"),
        (("add", bad, "--model", "M"), "line 2: is neither a text nor an object"),
        (("add", bad, "--model", "M"), "line 3: has neither"),
        (("add", bad, "--model", "M"), "line 5: custom_id '4' is another line's too"),
        (("show", "batch_1"), "names 0 batches"), (("show", ""), "names 0 batches"),
    ):  # fmt: skip
        code, _, err = typed(capsys, folder, *words)
        assert code == 2 and message in err, err
    with Queue(folder) as queue:
        assert queue.batches() == [] and queue.files() == [] and list((folder / "files").iterdir()) == []


def test_where_the_queue_is_unless_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main(["jobs", "add", str(write_lines(tmp_path / "in", LINES[:1])), "--model", "M"]) == 0
    assert (tmp_path / "data" / "wavefold" / "jobs" / "queue.db").is_file()
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["jobs", "ls"]) == 2
    assert f"{tmp_path}/home/.local/share/wavefold/jobs: holds no queue" in capsys.readouterr().err
