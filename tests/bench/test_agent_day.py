"""`bench/agent_day.py`: the day has the shape that it says; a small one is lived, with restarts, to the same tokens."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from tests.cache.many_threads import CONFIG
from tests.small import small_model
from wavefold.ops import native

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = util.spec_from_file_location("agent_day", ROOT / "bench/agent_day.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["agent_day"] = module
    spec.loader.exec_module(module)
    return module


def test_the_shape_of_a_day(script: ModuleType) -> None:
    args = argparse.Namespace(requests=200, sessions=8, scale=1.0, seed=0)
    steps = script.steps_of(args)
    assert [(step.session, step.way) for step in steps] == [(one.session, one.way) for one in script.steps_of(args)]
    assert Counter(step.way for step in steps) == {"turn": 184, "again": 8, "another": 8}
    assert set(Counter(step.session for step in steps).values()) == {25}
    sessions = [script.Session([0] * 10_000) for _ in range(8)]
    before: dict[int, list[int]] = {}
    longest = [0] * 8
    for number, step in enumerate(steps):
        session = sessions[step.session]
        prompt = script.prompt_of(session, step, random.Random(number), 3000)
        session.answer = [1] * step.answer
        if step.way == "again":
            assert prompt == before[step.session]
        elif step.way == "another":
            assert len(prompt) == len(before[step.session]) and prompt != before[step.session]
        else:
            assert len(prompt) > longest[step.session]
        before[step.session], longest[step.session] = prompt, max(longest[step.session], len(prompt))
    assert all(59_900 < length <= 60_000 for length in longest)


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_a_small_day(tmp_path: Path) -> None:
    """Three processes, one of which is killed; first tokens are those of the run without a cache."""
    model = small_model(tmp_path / "model", CONFIG.replace(max_position_embeddings=8192))
    command = [sys.executable, str(ROOT / "bench/agent_day.py"), str(model), "--requests", "18", "--sessions", "2",
               "--scale", "0.05", "--lives", "3", "--cold-every", "3", "--threads", "1", "--snapshot-every", "256",
               "--batch-invariant", "--figure", str(tmp_path / "day.svg")]  # fmt: skip
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert figures["same_first_tokens"] == figures["cold_requests"] == 6
    assert figures["new"] <= figures["computed"] < 2 * figures["new"] and figures["from_disk"] > 0
    assert figures["asked"] == figures["computed"] + figures["from_memory"] + figures["from_disk"]
    assert (tmp_path / "day.svg").read_text().startswith("<?xml")
