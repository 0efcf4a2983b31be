"""Workers that are killed, and disks that fill up; `python -m tests.jobs.kills` does so many times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.kills import disturb


def test_killed_workers_and_limited_files(tmp_path: Path) -> None:
    counts = disturb(tmp_path / "place", 200, 3, 5, 2, limit_files=True)
    assert (counts.lines, counts.kills) == (200, 5) and counts.full == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills_and_a_small_disk(tmp_path: Path, seed: int) -> None:
    try:
        counts = disturb(tmp_path / "place", 2000, 4, 40, 6, seed)
    except OSError as error:
        pytest.skip(str(error))
    assert counts.at_work >= 20 and counts.full >= 4
