"""Faults of the disk under an LLM with a budget: each ends its request at most, and later tokens are the same."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.experts.test_streamed import CONFIG
from tests.small import small_model
from wavefold import LLM, Sampling, ops
from wavefold.experts.streamed import StreamedExperts
from wavefold.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
PROMPTS = [[5, 6, 7], [9] * 100, list(range(40))]
Preadv = Callable[[int, list[memoryview], int], int]


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    """With slots for a fraction of the experts, on a checkpoint of its own."""
    folder = small_model(tmp_path / "model", CONFIG)
    monkeypatch.setattr("wavefold.engine.budget.rss_bytes", lambda: 1 << 20)
    monkeypatch.setattr("wavefold.engine.budget.OVERHEAD", 0)
    monkeypatch.setattr("wavefold.experts.pressure.rss_bytes", lambda: 1 << 20)
    with ops.using(backend="auto"):
        with pytest.raises(ValueError, match="expected") as refused:
            LLM(folder, memory=2_000_000)
        least = float(str(refused.value).split("expected ")[1].split(" ")[0])
        with LLM(folder, memory=int((least + 0.005) * 2**30), batch_invariant=True) as llm:
            assert isinstance(llm.model.experts.store, StreamedExperts)
            yield llm


def tokens(llm: LLM) -> list[list[int]]:
    return [answer.tokens for answer in llm.generate(PROMPTS, Sampling(8, 0))]


def faulty(monkeypatch: pytest.MonkeyPatch, read: Callable[[Preadv, int, list[memoryview], int], int]) -> None:
    """Reads are those of `read`, which gets the system's first."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: read(preadv, file, buffers, offset))


def test_a_disk_that_stalls_is_waited_for(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """All reads of 1.5 seconds stand still: nothing times out, and the tokens are the same."""
    expected, began, stalled = tokens(llm), time.monotonic(), 0

    def read(preadv: Preadv, file: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal stalled
        if (left := began + 1.5 - time.monotonic()) > 0:
            stalled += 1
            time.sleep(left)
        return preadv(file, buffers, offset)

    faulty(monkeypatch, read)
    assert tokens(llm) == expected
    assert stalled and time.monotonic() - began > 1.5


def test_short_reads_go_on_where_they_ended(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole pages, and of a few bytes, as a signal or a network's file system leaves them."""
    expected, draws, short = tokens(llm), random.Random(0), 0

    def read(preadv: Preadv, file: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal short
        size = len(buffers[0])
        short += size > 4096
        with buffers[0][: min(size, draws.choice([4096, 8192, size]))] as part:
            count = preadv(file, [part], offset)
        return count if count <= 4096 or draws.random() < 0.9 else count - 100

    faulty(monkeypatch, read)
    assert tokens(llm) == expected
    assert short > 10


def test_an_error_amid_an_answer_ends_that_answer(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, fails = tokens(llm), False

    def read(preadv: Preadv, file: int, buffers: list[memoryview], offset: int) -> int:
        if fails:
            raise OSError(5, "Input/output error")
        return preadv(file, buffers, offset)

    faulty(monkeypatch, read)
    stream = llm.stream([9] * 100, Sampling(400, 0))
    next(stream)
    fails = True
    with pytest.raises(ValueError, match=r"safetensors: byte [\d,]+ could not be read \(Input/output error\)"):
        for _ in stream:
            pass
    fails = False
    assert tokens(llm) == expected


@pytest.mark.parametrize("fault", ["truncated", "emptied", "replaced", "removed"])
def test_files_that_change_while_they_are_open(llm: LLM, tmp_path: Path, fault: str) -> None:
    """An error and no signal: nothing of the files is mapped. Once the file is as it was, so are the answers."""
    expected = tokens(llm)
    path = max((tmp_path / "model").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    kept = tmp_path / "kept"
    if fault in ("replaced", "removed"):
        path.rename(kept)
        if fault == "replaced":
            shutil.copyfile(kept, path)
    else:
        shutil.copy2(path, kept)
        os.truncate(path, 0 if fault == "emptied" else path.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"{path}.*"):
        tokens(llm)
    if fault in ("replaced", "removed"):
        kept.rename(path)
    else:
        path.write_bytes(kept.read_bytes())
        shutil.copystat(kept, path)
    assert tokens(llm) == expected
