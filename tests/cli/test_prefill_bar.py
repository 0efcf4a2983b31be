"""`wavefold run` on a terminal: a prompt that is being read shows how far it is."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest


def shown(model: Path, ids: Path) -> str:
    """What a terminal at stderr is sent."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "wavefold", "run", str(model), "--tokens", str(ids), "--max-tokens", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 4096):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return b"".join(parts).decode()


@pytest.mark.parametrize(("num_tokens", "is_shown"), [(20, False), (300, True), (1500, True)])
def test_a_bar_for_long_prompts(model: Path, tmp_path: Path, num_tokens: int, is_shown: bool) -> None:
    """Of one pass too; it is gone when the answer comes."""
    (tmp_path / "ids").write_text("5 " * num_tokens)
    text = shown(model, tmp_path / "ids")
    assert bool(re.search(rf"prompt\S* +\S*0/{num_tokens}\b", text)) == is_shown
    assert f"prompt {num_tokens:,} tokens" in text
