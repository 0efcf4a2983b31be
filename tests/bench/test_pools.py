"""The cache as it is allocated: bytes of the plan, resident memory, refusals before anything is allocated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wavefold.bench.pools import RECORDS, allocate
from wavefold.cache import Pool
from wavefold.checkpoint.random import random_model
from wavefold.cli.main import main
from wavefold.config import ModelConfig
from wavefold.ops import Arithmetic
from wavefold.system import Limit, memory

FLASH, PRO, NANO = (ModelConfig.preset(name) for name in ("flash", "pro", "nano"))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "gib"), [(FLASH, 3.28), (PRO, 4.69)], ids=["flash", "pro"])
def test_a_million_tokens_are_resident(config: ModelConfig, gib: float) -> None:
    """The report's 3.28 and 4.69 GiB count 128 window rows for each layer; the state has 144, and the tails."""
    row = allocate(config, 1_000_000, "packed")
    assert row.allocated_bytes == row.planned_bytes
    assert abs(row.rss_bytes / row.planned_bytes - 1) < 0.01
    windows = config.num_hidden_layers * 128 * 584
    state = row.planned_bytes - 7813 * {21: 449_824, 30: 644_024}[config.compress_ratios.count(4)]
    assert (row.planned_bytes - state + windows) / 2**30 == pytest.approx(gib, abs=0.006)


@pytest.mark.parametrize("records", RECORDS)
def test_what_is_allocated_is_planned(records: str) -> None:
    row = allocate(NANO, 1_000_000, records)
    assert row.allocated_bytes == row.planned_bytes
    assert abs(row.rss_bytes - row.planned_bytes) < 0.01 * row.planned_bytes + (8 << 20)


@pytest.mark.parametrize("num_tokens", [0, -1, 2**20 + 1])
def test_lengths_that_the_model_has_not(num_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{num_tokens} tokens are not allowed; expected 1 to 1048576"):
        allocate(FLASH, num_tokens, "packed")


def test_more_than_memory_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limits", lambda: [Limit("the machine", 4 << 30, 3 << 30)])
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: pytest.fail("something was allocated"))
    refusal = r"1,000,000 tokens takes 3.54 GB, and 3.22 GB of memory are free: the machine allows 4.29 GB"
    with pytest.raises(ValueError, match=refusal):
        allocate(FLASH, 1_000_000, "packed")
    with pytest.raises(ValueError, match="records 'int4' are not allowed; expected packed, bfloat16, float32"):
        allocate(FLASH, 10, "int4")


def test_a_pool_of_another_model_is_refused() -> None:
    model = random_model(NANO.replace(vocab_size=64), 0, Arithmetic("exact"))
    with pytest.raises(ValueError, match="a pool of another model"):
        model.extend(torch.zeros(1, dtype=torch.int64), [Pool(NANO, 128, model.records).open()], [1])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "lines.jsonl"
    assert main(
        ["bench", "cache", "nano", "--tokens", "1000000", "--records", "packed", "bfloat16", "--out", str(out)]
    ) in (0, 1)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["records"] for line in lines] == ["packed", "bfloat16"]
    assert all(line["allocated_bytes"] == line["planned_bytes"] for line in lines)
    assert main(["bench", "cache", "nano", "--tokens", "0"]) == 2
    assert main(["bench", "cache", "absent"]) == 2
