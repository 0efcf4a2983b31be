"""Batches through a model: the tokens of each line alone, each line once, whatever ends the process."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small import SMALL, small_model
from wavefold import LLM, Sampling, ops
from wavefold.batch import Results, read_jobs, run_batch
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
CONFIG = SMALL.replace(vocab_size=300, o_lora_rank=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("batch") / "model", CONFIG)


@pytest.fixture
def llm(folder: Path) -> Iterator[LLM]:
    with ops.using(backend="auto"), LLM(folder, batch_invariant=True, width=5) as llm:
        yield llm


def lines(count: int) -> list[dict[str, object]]:
    draws = random.Random(0)
    return [
        {"id": f"line {n}", "prompt": draws.choices(range(300), k=1 + n % 37), "max_tokens": 1 + n % 9, "seed": n}
        for n in range(count)
    ]  # fmt: skip


def written(path: Path, entries: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def results_of(path: Path) -> dict[str, dict[str, object]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({entry["id"] for entry in entries}) == len(entries), "a line twice"
    return {entry["id"]: entry for entry in entries}


def test_answers_are_those_of_each_line_alone(llm: LLM, tmp_path: Path) -> None:
    entries = [*lines(40), {"id": "bad", "prompt": [5, 300]}, {"id": "several", "prompt": [4], "n": 3, "max_tokens": 4}]
    jobs = read_jobs(written(tmp_path / "in", entries))
    shown: list[tuple[int, int, int]] = []
    with Results(tmp_path / "out", [job.key for job in jobs]) as results:
        assert run_batch(llm, jobs, results, lambda *numbers: shown.append(numbers)) == 1
    answers = results_of(tmp_path / "out")
    assert len(answers) == 42 and shown[0] == (0, 42, 0) and shown[-1][:2] == (42, 42)
    assert "token 300 is not allowed" in str(answers["bad"]["error"])
    assert len(answers["several"]["answers"]) == 3  # type: ignore[arg-type]
    for entry in entries[:40]:
        alone = llm.generate([entry["prompt"]], Sampling(entry["max_tokens"], seed=entry["seed"]))[0]  # type: ignore[list-item, arg-type]
        assert answers[entry["id"]]["text"] == alone.text  # type: ignore[index]
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_disk_that_is_full_leaves_whole_lines(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = read_jobs(written(tmp_path / "in", lines(12)))
    keys, write, calls = [job.key for job in jobs], os.write, iter(range(100))

    def full(descriptor: int, data: bytes) -> int:
        if next(calls) < 5:
            return write(descriptor, data)
        write(descriptor, data[:7])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, Results(tmp_path / "out", keys) as results:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left on device; results so far are kept"):
            run_batch(llm, jobs, results)
    assert len(results_of(tmp_path / "out")) == 5
    with Results(tmp_path / "out", keys) as results:
        run_batch(llm, jobs, results)
    assert len(results_of(tmp_path / "out")) == 12
    assert llm._runner is not None and llm._runner.idle


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    path = written(
        tmp_path / "in", [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x"}, {"id": "a", "prompt": "y"}]
    )
    with pytest.raises(ValueError, match="lines 1 and 3 are both 'a'; expected one of each"):
        read_jobs(path)
    out = written(tmp_path / "out", [{"id": "c", "text": ""}])
    with pytest.raises(ValueError, match="line 1 is the result of 'c', which this batch does not have"):
        Results(out, ["a"])
    out.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no result of a batch"):
        Results(out, ["a"])
    out.write_text('{"id": "a"}\n{"id": "b", "te')
    with Results(out, ["a", "b"]) as results, pytest.raises(ValueError, match="another process writes it"):
        assert results.done == {"a"} and out.read_text() == '{"id": "a"}\n'
        Results(out, ["a", "b"])


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    """Other line ends may stand in JSON as they are."""
    path = tmp_path / "in"
    path.write_bytes('{"prompt": "a\u2028b\u0085c", "id": "x"}\r\n\n"d"\n'.encode())
    first, second = read_jobs(path)
    assert (first.key, first.prompt, first.error) == ("x", "a\u2028b\u0085c", "")
    assert (second.number, second.prompt) == (3, "d")


def test_killed_at_random_each_line_comes_once(folder: Path, tmp_path: Path) -> None:
    """Until it is through: the same answers as in one go."""
    written(tmp_path / "in", lines(60))
    before = [sys.executable, "-m", "wavefold", "batch", str(tmp_path / "in")]
    after = ["--model", str(folder), "--width", "4"]
    whole = subprocess.run([*before, str(tmp_path / "whole"), *after], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    expected, draws, kills = results_of(tmp_path / "whole"), random.Random(2), 0
    out = tmp_path / "out"
    while kills < 6:
        process = subprocess.Popen([*before, str(out), *after], stderr=subprocess.DEVNULL)
        wanted = (out.stat().st_size if out.exists() else 0) + draws.randrange(1, 900)
        while process.poll() is None and (not out.exists() or out.stat().st_size < wanted):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    last = subprocess.run([*before, str(out), *after], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert results_of(out) == expected


def test_each_line_has_its_own_stops_schema_and_choice(llm: LLM, tmp_path: Path) -> None:
    """Side by side, 5 at a time: a constraint of one line holds for no other one."""
    entries: list[dict[str, object]] = []
    for n in range(24):
        sampling: dict[str, object] = {"max_tokens": 24, "seed": n, "temperature": 1.5}
        kinds: list[dict[str, object]] = [
            {}, {"stop": list("abcdefghijkl"), "max_tokens": 60}, {"json_schema": {"type": "integer"}},
            {"choices": ["yes", "no"]}, {"regex": "[xyz]{3}"}, {"temperature": 0},
        ]  # fmt: skip
        entries.append({"id": f"{n}", "prompt": f"line {n}", **sampling, **kinds[n % 6]})
    jobs = read_jobs(written(tmp_path / "in", entries))
    with Results(tmp_path / "out", [job.key for job in jobs]) as results:
        assert run_batch(llm, jobs, results) == 0
    answers = results_of(tmp_path / "out")
    for n, job in enumerate(jobs):
        text = str(answers[job.key]["text"])
        assert text == llm.generate([job.prompt], job.sampling)[0].text
        if n % 6 == 1:
            assert not set(text) & set("abcdefghijkl")
        elif n % 6 == 2 and answers[job.key]["finish_reason"] != "length":
            assert isinstance(json.loads(text), int)
        elif n % 6 == 3:
            assert text in ("yes", "no")
        elif n % 6 == 4:
            assert len(text) == 3 and set(text) <= set("xyz")
    assert {answers[str(n)]["finish_reason"] for n in range(1, 24, 6)} & {"stop"}


def test_a_prompt_that_needs_a_larger_pool_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in its place would be its result: a run that goes on does not try it again."""
    monkeypatch.setattr("wavefold.engine.room.DEFAULT_POOL_TOKENS", 512)
    entries = [{"prompt": [5] * size, "max_tokens": 4, "id": str(size)} for size in (20, 30, 900, 40, 1500)]
    jobs = read_jobs(written(tmp_path / "in", entries))
    with LLM(width=2, threads=1) as llm:
        assert llm.runner.num_blocks == 4
        with Results(tmp_path / "out", {job.key for job in jobs}) as results:
            assert run_batch(llm, jobs, results) == 0
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert {line["id"]: "error" in line for line in lines} == dict.fromkeys(("20", "30", "900", "40", "1500"), False)
