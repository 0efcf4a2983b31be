"""A batch on a disk that is full or fails: whole lines alone, the reason, and the same command goes on."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch.test_batch import CONFIG, lines, results_of, written
from tests.disks import small_disk
from tests.experts.test_streamed import CONFIG as MANY_EXPERTS
from tests.small import small_model
from wavefold import LLM, ops
from wavefold.batch import Results, read_jobs, run_batch
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("faults") / "model", CONFIG)


def batch(folder: Path, path: Path, out: Path, before: Callable[[], None] | None = None) -> tuple[int, str]:
    command = [sys.executable, "-m", "wavefold", "batch", str(path), str(out), "--model", str(folder), "--width", "4"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=before)
    return done.returncode, " ".join(done.stderr.split())


def test_a_full_file_system(folder: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "in", lines(120))
    with small_disk(tmp_path / "disk", 8) as enlarge:
        out = tmp_path / "disk" / "out"
        code, said = batch(folder, path, out)
        assert code == 2 and "No space left on device; results so far are kept: run it again" in said, said
        kept = out.read_text()
        assert kept.endswith("\n") and 4096 < len(kept) <= 8192
        enlarge()
        code, said = batch(folder, path, out)
        assert code == 0, said
        assert out.read_text().startswith(kept) and len(results_of(out)) == 120


def test_a_limit_on_the_size_of_files(folder: Path, tmp_path: Path) -> None:
    path, out = written(tmp_path / "in", lines(60)), tmp_path / "out"
    code, said = batch(folder, path, out, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)))
    assert code == 2 and "File too large; results so far are kept: run it again" in said, said
    kept = out.read_text()
    assert kept.endswith("\n") and 2500 < len(kept) <= 3000
    code, said = batch(folder, path, out)
    assert code == 0, said
    assert out.read_text().startswith(kept) and len(results_of(out)) == 60


def test_an_error_of_the_disk_amid_a_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = read_jobs(written(tmp_path / "in", lines(12)))
    keys, write, calls = [job.key for job in jobs], os.write, iter(range(1000))

    def failing(descriptor: int, data: bytes) -> int:
        if (number := next(calls)) == 13:
            raise OSError(5, "Input/output error")
        return write(descriptor, data[: len(data) // 2] if number % 2 == 0 else data)

    with ops.using(backend="auto"), LLM(folder, width=3) as llm:
        with monkeypatch.context() as patch, Results(tmp_path / "out", keys) as results:
            patch.setattr(os, "write", failing)
            with pytest.raises(OSError, match="out: Input/output error; results so far are kept"):
                run_batch(llm, jobs, results)
        kept = (tmp_path / "out").read_text()
        assert len(results_of(tmp_path / "out")) == 6 and kept.endswith("\n")
        with Results(tmp_path / "out", keys) as results:
            assert run_batch(llm, jobs, results) == 0
    assert (tmp_path / "out").read_text().startswith(kept) and len(results_of(tmp_path / "out")) == 12


def test_a_disk_that_says_at_the_end_that_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    results = Results(tmp_path / "out", ["a"])
    results.append("a", {"id": "a"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="out: No space left on device; results may be missing from its end"):
        results.close()
    Results(tmp_path / "out", ["a"])._descriptor  # noqa: B018  the lock is free


def test_experts_that_cannot_be_read_end_the_command_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a budget: an error of the disk amid the batch; the next run has the lines of one without."""
    folder = small_model(tmp_path / "model", MANY_EXPERTS)
    monkeypatch.setattr("wavefold.engine.budget.rss_bytes", lambda: 1 << 20)
    monkeypatch.setattr("wavefold.engine.budget.OVERHEAD", 0)
    monkeypatch.setattr("wavefold.experts.pressure.rss_bytes", lambda: 0)
    jobs = read_jobs(written(tmp_path / "in", lines(30)))
    keys, preadv, calls = [job.key for job in jobs], os.preadv, iter(range(10**9))

    def failing(*arguments: object) -> int:
        if next(calls) > 60:
            raise OSError(5, "Input/output error")
        return preadv(*arguments)  # type: ignore[arg-type]

    with ops.using(backend="auto"), LLM(folder, width=3, batch_invariant=True) as llm, Results(
        tmp_path / "whole", keys
    ) as results:  # fmt: skip
        run_batch(llm, jobs, results)
    with ops.using(backend="auto"), pytest.raises(ValueError, match=r"expected ([\d.]+) GiB") as refused:
        LLM(folder, width=3, memory=2_000_000)
    memory = str(refused.value).split("expected ")[1].split(" ")[0]
    with (
        ops.using(backend="auto"),
        LLM(folder, width=3, memory=f"{float(memory) + 0.005}G", batch_invariant=True) as llm,
    ):
        assert llm.budget is not None and llm.budget.num_slots is not None
        with monkeypatch.context() as patch, Results(tmp_path / "out", keys) as results:
            patch.setattr(os, "preadv", failing)
            with pytest.raises(ValueError, match=r"could not be read \(Input/output error\)"):
                run_batch(llm, jobs, results)
        before = len(results_of(tmp_path / "out"))
        with Results(tmp_path / "out", keys) as results:
            assert run_batch(llm, jobs, results) == 0
    assert before < 30 and results_of(tmp_path / "out") == results_of(tmp_path / "whole")
