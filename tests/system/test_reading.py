"""Reads into several places at once, past the page cache, whole or as far as the file goes."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from wavefold.system.reading import ALIGNMENT, DirectFile, ReadThreads

SIZE = 10 * ALIGNMENT + 777


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


def views(memory: mmap.mmap, sizes: list[int]) -> list[memoryview]:
    """Places of so many pages with a page between them."""
    found, at = [], 0
    for size in sizes:
        found.append(memoryview(memory)[at : at + size * ALIGNMENT])
        at += (size + 1) * ALIGNMENT
    return found


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("most", [1 << 30, ALIGNMENT, 3 * ALIGNMENT, 700])
def test_places_are_filled_in_order(path: Path, direct: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few bytes the system gives at a time: what is left of the places is asked for again."""
    preadv, data, memory = os.preadv, path.read_bytes(), mmap.mmap(-1, 1 << 20)
    places = views(memory, [2, 1, 4])

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        return min(count, most)

    monkeypatch.setattr(os, "preadv", short)
    file = DirectFile(path, direct)
    assert file.read(places, ALIGNMENT, 7 * ALIGNMENT) == 7 * ALIGNMENT
    assert b"".join(places) == data[ALIGNMENT : 8 * ALIGNMENT]
    assert memory[2 * ALIGNMENT : 3 * ALIGNMENT] == bytes(ALIGNMENT), "nothing between the places"
    file.close()


@pytest.mark.parametrize("direct", [True, False])
def test_the_end_of_a_file(path: Path, direct: bool) -> None:
    data, places = path.read_bytes(), views(mmap.mmap(-1, 1 << 20), [2, 2])
    file = DirectFile(path, direct)
    assert file.read(places, 9 * ALIGNMENT, 4 * ALIGNMENT) == ALIGNMENT + 777
    assert b"".join(places)[: ALIGNMENT + 777] == data[9 * ALIGNMENT :]
    assert file.read(places, 20 * ALIGNMENT, 4 * ALIGNMENT) == 0
    file.close()


def test_the_first_error_is_the_futures() -> None:
    threads, done = ReadThreads("reader", "a test", 2), []

    def fail() -> None:
        raise ValueError("no")

    future = threads.submit([fail, lambda: done.append(1)])
    with pytest.raises(ValueError, match="no"):
        future.result(10)
    assert threads.submit([]).result(10) is None
    threads.close()
    with pytest.raises(ValueError, match="the reader of a test is closed"):
        threads.submit([fail])
