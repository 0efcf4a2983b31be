"""Writers of the prefix cache that are killed: what is found afterwards is right, and the cap held throughout."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cache.disk_chains import chain, num_found, put, read, segments, size_of, space_of
from tests.cache.disk_kills import CAP, in_child, kill_rounds, watching
from tests.disks import small_disk
from wavefold.cache.disk import DiskCache


@pytest.mark.parametrize("processes", [1, 4])
def test_kills(tmp_path: Path, processes: int) -> None:
    with watching(tmp_path, CAP):
        counts = kill_rounds(tmp_path, 32, processes, seed=processes)
    assert counts["blocks found"] > 100 and counts["states read"] > 10, counts


def test_kills_with_all_blocks_of_the_disk_counted(tmp_path: Path) -> None:
    """Of a file system of its own, so that bytes without a name are seen."""
    with small_disk(tmp_path / "disk", 8 * CAP // 1024), watching(tmp_path / "disk", CAP):
        kill_rounds(tmp_path / "disk", 16, 4, seed=9)


def test_the_watcher_sees_a_breach(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="200,000 bytes seen, the cap is 100,000"), watching(tmp_path, 100_000):
        (tmp_path / "file").write_bytes(bytes(200_000))
        time.sleep(0.3)


def test_a_lower_cap_holds_before_anything_is_written(tmp_path: Path) -> None:
    """At the start already, with what a killed writer has left, too."""
    child = in_child(lambda: _write_and_wait(tmp_path))
    while len(segments(tmp_path)) < 20:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / ".fresh-abc.segment").write_bytes(bytes(10_000))
    before = size_of(tmp_path)
    with DiskCache(tmp_path, before // 3) as cache:
        assert size_of(tmp_path) <= before // 3 and not (tmp_path / ".fresh-abc.segment").exists()
        space = space_of(cache)
        kept = [number for number in range(100) if num_found(space, chain(number, 12)) == 12]
        assert kept and all(read(space, chain(number, 12)) == 12 for number in kept)


def _write_and_wait(folder: Path) -> None:
    with DiskCache(folder, 1 << 30) as cache:
        for number in range(100):
            put(space_of(cache), chain(number, 12))
        cache.flush()
        time.sleep(60)
