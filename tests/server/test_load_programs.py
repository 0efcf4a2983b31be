"""`bench/server_load.py peer` and `soak`, small: what they count and print; llama.cpp's server has a stand-in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wavefold import LLM

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(ROOT / "bench/server_load.py")]


def test_requests_beside_a_peer(tmp_path: Path) -> None:
    peer, out = tmp_path / "llama-server", tmp_path / "lines.jsonl"
    script = ROOT / "tests/bench/fake_llama_server.py"
    peer.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    peer.chmod(0o755)
    with LLM() as llm:
        model = str(llm.folder)
    command = [*PROGRAM, "peer", model, "--llama-server", str(peer), "--gguf", "any.gguf", "--requests", "1", "3",
               "--prompt", "20", "--tokens", "6", "--turns", "2", "--threads", "1", "--out", str(out)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ratio") == 2
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert [(line["requests"], line["turn"]) for line in lines] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    for line in lines:
        for who in ("ours", "llama.cpp"):
            figures = line[who]
            assert 0 < figures["first_s"] <= figures["first_most_s"] and figures["still_s"] >= 0
            most = line["requests"] * 6 / figures["first_most_s"]
            assert 0 < figures["tokens_per_s"] <= most, "the last token comes no sooner than the first"


@pytest.mark.slow
def test_a_soak_of_seconds() -> None:
    command = [
        *PROGRAM,
        "soak",
        "--seconds",
        "2",
        "--clients",
        "6",
        "--mute",
        "1",
        "--kinds",
        "good",
        "whole",
        "leaves",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    # seconds are too few for the memory to settle: that alone may be wrong
    assert done.returncode == 0 or done.stderr.strip() == "wrong: memory", done.stdout + done.stderr
    assert re.search(r"\d good: answered\n.* left\n.* mute: left at the end\n", done.stdout)
    assert "crashes: 0; lines of faults in the log: 0; 5xx: 0," in done.stdout
    assert re.search(r"memory: [\d.]+ MiB at the start, [\d.]+ MiB at the end \([+-][\d.]+%\); clients", done.stdout)
