"""Parts of a batch in several processes: together each line once, and no result in the wrong file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.batch.test_batch import CONFIG, lines, results_of, written
from tests.small import small_model
from wavefold import ops
from wavefold.batch import Shard, job_of
from wavefold.cli.main import main
from wavefold.ops import native


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_have_all_lines_once(count: int) -> None:
    jobs = [job_of(number, json.dumps("x")) for number in range(1, 24)]
    shards = [Shard.parse(f"{index}/{count}").of(jobs) for index in range(1, count + 1)]
    assert sorted(job.number for shard in shards for job in shard) == list(range(1, 24))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert [job.number for job in shards[0]][:2] == [1, 1 + count][: len(shards[0])]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3", "1.0/2", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="is not allowed; expected I/N with I from 1 to N"):
        Shard.parse(text)


@pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
def test_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three shards of 20 lines: their union is the whole batch's; a shard goes on, and refuses another one's file."""
    folder = small_model(tmp_path / "model", CONFIG)
    entries = lines(20)
    entries[4] = {"id": "bad", "prompt": [300]}

    def batch(out: str, *flags: str) -> int:
        path = written(tmp_path / "in", entries)
        with ops.using(backend="auto"):
            return main(["batch", str(path), str(tmp_path / out), "--model", str(folder), "--batch-invariant", *flags])

    assert batch("whole") == 1
    codes = [batch(f"part{index}", "--shard", f"{index}/3") for index in (1, 2, 3)]
    parts = [results_of(tmp_path / f"part{index}") for index in (1, 2, 3)]
    assert codes == [0, 1, 0] and [len(part) for part in parts] == [7, 7, 6]
    assert parts[0] | parts[1] | parts[2] == results_of(tmp_path / "whole")
    part = (tmp_path / "part1").read_text()
    (tmp_path / "part1").write_text(part[: len(part) // 2])
    assert batch("part1", "--shard", "1/3") == 0 and results_of(tmp_path / "part1") == parts[0]
    capsys.readouterr()
    assert batch("part1", "--shard", "2/3") == 2
    assert "line 1 is the result of 'line 0', which is another shard's; give each shard a file of its own" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert batch("other", "--shard", "4/3") == 2
    assert "--shard '4/3' is not allowed; expected I/N with I from 1 to N" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "other").exists()
    assert batch("part1") == 1 and results_of(tmp_path / "part1") == results_of(tmp_path / "whole")
