"""`wavefold jobs`: what people type, and what they are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.working import Answering, work, write_lines
from wavefold.atomic import holding
from wavefold.cli.main import main
from wavefold.jobs import board
from wavefold.jobs.queue import Queue

LINES = [
    "def f(", {"prompt": "a", "id": "second", "temperature": 0}, {"messages": [{"role": "user", "content": "Hi"}]},
    {"custom_id": "fourth", "method": "POST", "url": "/v1/responses", "body": {"model": "own", "input": "Hi"}},
]  # fmt: skip


def typed(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str, str]:
    code = main(["jobs", words[0], "--jobs", str(folder), *words[1:]])
    return code, *capsys.readouterr()


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
                 "1 changes of the model", "  M: 4 done", "priority    3"):  # fmt: skip
        assert text in out
    assert "no process works" in err
    code, out, err = typed(capsys, folder, "results", batch)
    assert [json.loads(text)["custom_id"] for text in out.splitlines()] == ["1", "second", "3", "fourth"] and not err
    typed(capsys, folder, "results", batch, "--out", str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == out
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
    assert "cancelled" in typed(capsys, folder, "show", batch)[1]


def test_why_it_does_not_go_on_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    batch = typed(capsys, folder, "add", str(write_lines(tmp_path / "in", LINES[:1])), "--model", "M")[1].strip()
    with holding(folder / board.LOCK):
        board.say(folder, "the disk is full")
        assert "paused: the disk is full" in typed(capsys, folder, "show", batch)[2]
        board.say(folder, None)
        assert "a process works on it" in typed(capsys, folder, "add", str(tmp_path / "in"), "--model", "M")[2]
        assert typed(capsys, folder, "show", batch)[2] == ""


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, good = tmp_path / "jobs", str(write_lines(tmp_path / "good", LINES[:1]))
    bad = str(
        write_lines(
            tmp_path / "bad", [{"prompt": "a", "json_schema": {}}, [1], {"id": "x"}, "a", {"id": 4, "prompt": ""}]
        )
    )
    assert typed(capsys, folder, "ls")[0] == 2
    for words, message in (
        (("add", good), "body.model is not allowed"),
        (("add", good, "--model", "M", "--priority", "1001"), "-1000 to 1000"),
        (("add", good, "--model", "M", "--quiet-hours", "22-7"), "as 22:00-07:00"),
        (("add", str(tmp_path / "none"), "--model", "M"), "No such file"),
        (("add", bad, "--model", "M"), "line 1: json_schema is not known"),
        (("add", bad, "--model", "M"), "line 2: is no JSON object"),
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
