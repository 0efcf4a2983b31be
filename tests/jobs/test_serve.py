"""`wavefold serve --jobs` as a process that is killed, and ended by SIGTERM, amid a batch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.jobs.working import write_lines
from wavefold.cli.main import main
from wavefold.jobs.queue import Queue
from wavefold.jobs.summary import summary_of

NEEDS = ("pydantic", "deepseek_recipe", "starlette", "uvicorn", "prometheus_client", "python_multipart")
needs = pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in NEEDS), reason=f"needs {NEEDS}")


def started(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Returns a server and its port."""
    command = [sys.executable, "-m", "wavefold", "serve", "--port", "0", "--threads", "1", "--jobs", str(folder)]
    environment = {**os.environ, "WAVEFOLD_TUNING": "usual"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    first = process.stderr.readline()
    found = re.search(r"served as wavefold at http://.*:(\d+)", first)
    if found is None:
        process.kill()
        pytest.fail(first + process.communicate()[1])
    return process, int(found[1])


@needs
@pytest.mark.parametrize("ends", [
    (signal.SIGKILL,), pytest.param((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), marks=pytest.mark.slow)
])  # fmt: skip
def test_a_batch_survives_its_servers(tmp_path: Path, ends: tuple[signal.Signals, ...]) -> None:
    """Each line has one result, and those of before stay as they are."""
    folder, total = tmp_path / "jobs", 40 * (1 + len(ends))
    lines = [{"id": str(number), "prompt": f"def f{number}(", "max_tokens": 20} for number in range(total)]
    path = str(write_lines(tmp_path / "in", lines))
    assert main(["jobs", "add", path, "--model", "wavefold", "--jobs", str(folder)]) == 0
    before: list[bytes] = []
    with Queue(folder) as queue:
        (row,) = queue.batches()
        for end in (*ends, None):
            process, _ = started(folder)
            try:
                until = time.monotonic() + 60
                wanted = len(before) + 10 if end else total
                while len(found := list(queue.results(row["number"]))) < wanted:
                    assert process.poll() is None and time.monotonic() < until
                    time.sleep(0.005)
                process.send_signal(end or signal.SIGTERM)
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
                process.communicate()
            assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 0), said
            assert set(before) <= set(found)
            before = list(queue.results(row["number"]))
            if end == signal.SIGTERM and len(before) < total:
                assert summary_of(queue, row).parts[0].under_way == 0
        assert queue.batch(row["id"])["state"] == "completed"
    results = [json.loads(text) for text in before]
    assert Counter(one["custom_id"] for one in results) == Counter(str(number) for number in range(total))
    assert {one["response"]["status_code"] for one in results} == {200}
    assert all(one["response"]["body"]["usage"]["completion_tokens"] for one in results)


@needs
def test_a_queue_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database" * 1000)
    assert main(["serve", "--port", "0", "--jobs", str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_without_its_package_it_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    for name in ("uploads", "files", "batches", "jobs"):
        monkeypatch.delitem(sys.modules, f"wavefold.server.{name}", raising=False)
    assert main(["serve", "--port", "0", "--jobs", str(tmp_path)]) == 2
    assert "serve needs python_multipart; install it with pip install" in capsys.readouterr().err
