"""The examples of docs/serving.md, as they stand there, against a server on its own port: all that ask one.

Those that ask one with a queue: `tests/jobs/test_openai_client.py`.
"""

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

ROOT = Path(__file__).parents[2]
TEXTS = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [block for text in TEXTS for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
CURLS = [block for block in BLOCKS if block.startswith("curl")]
ASKING = [block for block in BLOCKS if "localhost:8000" in block and "curl" not in block]
QUEUED = [block for block in ASKING if ".batches." in block]
PROGRAMS = [block for block in ASKING if block not in QUEUED]


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
    """And no other place in README and docs has one that is not run."""
    assert len(CURLS) == 4 and len(PROGRAMS) == 1 and len(QUEUED) == 1
    assert sum(text.count("curl -") for text in TEXTS) == len(CURLS)
    assert sum(text.count("localhost:8000") for text in TEXTS) == len(CURLS) + len(ASKING)
