"""A process that dies: the others end with an error, and the last good state stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.train.tiny import torchrun, write_corpus


def test_a_killed_process_ends_the_run_and_the_state_resumes(tmp_path: Path) -> None:
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    command, environment = torchrun(2, tmp_path, data, "eval_every=1000", "save_every=2", "steps=100000")

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)

    def wait_for(lines: int) -> None:
        ended = time.monotonic() + 120
        while time.monotonic() < ended and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.05)
        assert log.read_text().count("\n") >= lines

    log = out / "log.jsonl"
    run = start()
    wait_for(5)
    os.kill(rank(run, 1), signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "rank      : 1" in errors and "Signal 9 (SIGKILL)" in errors  # who died, and of what
    (*_, newest) = sorted(path.name for path in (out / "state").glob("step-*"))
    steps = int(newest.removeprefix("step-"))
    before = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    run = start()
    wait_for(steps + 3)
    run.terminate()
    run.communicate(timeout=60)
    after = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert after[:steps] == before[:steps] and len(after) > steps
    assert after[steps : len(before)] == before[steps : len(after)]  # what it had done beyond the state, it does again


def rank(run: subprocess.Popen[str], number: int) -> int:
    """The process id of a rank."""
    children = psutil.Process(run.pid).children()
    return next(child.pid for child in children if child.environ().get("RANK") == str(number))
