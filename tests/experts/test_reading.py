"""Reads of parts of files: the bytes are the files', and what is wrong with a file is named."""

from __future__ import annotations

import mmap
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavefold.experts.mapped import stamp_of
from wavefold.experts.reading import ALIGNMENT, Part, Reader

SIZE = 300_001


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


@pytest.fixture(params=[True, False], ids=["direct", "through the page cache"])
def reader(path: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    reader = Reader([path], [stamp_of(path)], 4, direct=request.param)
    yield reader
    reader.close()


def test_bytes_are_those_of_the_file(reader: Reader, path: Path) -> None:
    draws, data = random.Random(1), path.read_bytes()
    memory = mmap.mmap(-1, 4 << 20)
    view, futures, places, at = memoryview(memory), [], [], 0
    for number in range(60):
        begin = ALIGNMENT * draws.randrange(SIZE // ALIGNMENT)
        end = begin + ALIGNMENT * draws.randrange(1, 10)
        futures.append(reader.read([Part(0, begin, end, at)], view, urgent=number % 2 == 0))
        places.append((begin, end, at))
        at += end - begin
    for future in futures:
        future.result(10)
    for begin, end, at in places:
        end = min(end, SIZE)
        assert memory[at : at + end - begin] == data[begin:end]
    assert reader.counts.num_reads == 60


def test_memory_that_is_not_aligned_is_read_through_the_page_cache(path: Path) -> None:
    """By several threads at once, which all meet the refusal."""
    reader, memory = Reader([path], [stamp_of(path)], 4), mmap.mmap(-1, 1 << 20)
    places = range(8, 20 * 2 * ALIGNMENT, 2 * ALIGNMENT)
    futures = [reader.read([Part(0, 0, ALIGNMENT, at)], memoryview(memory)) for at in places]
    for at, future in zip(places, futures, strict=True):
        future.result(10)
        assert memory[at : at + ALIGNMENT] == path.read_bytes()[:ALIGNMENT]
    reader.close()


def test_a_file_that_changed_is_named(reader: Reader, path: Path) -> None:
    memory = memoryview(bytearray(SIZE + ALIGNMENT))
    part = Part(0, 0, -(-SIZE // ALIGNMENT) * ALIGNMENT, 0)
    reader.read([part], memory).result(10)
    os.truncate(path, 100_000)
    with pytest.raises(ValueError, match=f"{path}: was replaced since the model was loaded"):
        reader.read([part], memory).result(10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    reader = Reader([tmp_path / "gone"], [(0, 10, 0)], 1)
    with pytest.raises(ValueError, match=r"gone: could not be opened \(No such file or directory\)"):
        reader.read([Part(0, 0, 10, 0)], memoryview(bytearray(10))).result(10)
    reader.close()
    with pytest.raises(ValueError, match="is closed"):
        reader.read([Part(0, 0, 10, 0)], memoryview(bytearray(10)))


def test_an_error_of_the_disk_names_file_and_offset(
    reader: Reader, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amid a file, after a read that gave less than was asked for."""
    given = iter([8192])

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if (count := next(given, 0)) == 0:
            raise OSError(5, "Input/output error")
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(ValueError, match=rf"{path}: byte 8,192 could not be read \(Input/output error\)"):
        reader.read([Part(0, 0, 40_960, 0)], memoryview(bytearray(40_960))).result(10)


def test_reads_that_end_early_are_named(reader: Reader, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(ValueError, match=f"{path}: ends at byte 0, expected 40,960 bytes"):
        reader.read([Part(0, 0, 40_960, 0)], memoryview(bytearray(40_960))).result(10)


def test_reads_that_wait_when_the_reader_is_closed_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those under way end: nobody waits for ever."""
    reader, begun, go_on = Reader([path], [stamp_of(path)], 1), threading.Event(), threading.Event()
    preadv = os.preadv

    def slow(*arguments: object) -> int:
        begun.set()
        assert go_on.wait(10)
        return preadv(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", slow)
    memory = memoryview(mmap.mmap(-1, ALIGNMENT))
    futures = [reader.read([Part(0, 0, ALIGNMENT, 0)], memory) for _ in range(3)]
    assert begun.wait(10)
    closing = threading.Thread(target=reader.close)
    closing.start()
    for future in futures[1:]:
        with pytest.raises(ValueError, match="closed amid a read"):
            future.result(10)
    go_on.set()
    closing.join(10)
    assert futures[0].result(10) is None and not closing.is_alive()
