"""The examples of docs/serving.md, as they stand there, against a server on its own port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Running, frames, served_model

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
CURLS = [text for text in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) if text.startswith("curl")]
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with served_model() as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", CURLS, ids=range(len(CURLS)))
def test_curl(server: Running, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", command.replace("localhost:8000", f"localhost:{server.port}")], capture_output=True, timeout=60
    )
    assert done.returncode == 0
    if " -sN " in command:
        parts = frames(done.stdout)
        assert done.stdout.endswith(b"data: [DONE]\n\n") and parts[-1]["choices"][0]["finish_reason"]
    else:
        answer = json.loads(done.stdout)
        assert "error" not in answer and answer["usage"]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs(server: Running, program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program.replace("localhost:8000", f"localhost:{server.port}")],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_there_are_examples() -> None:
    assert len(CURLS) == 4 and len(PROGRAMS) == 1
