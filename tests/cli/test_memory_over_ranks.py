"""`--memory` over two processes: results of mapped files, memory below the budget, refusals on all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experts.test_streamed import CONFIG
from tests.processes import by_hand, torchrun
from tests.small import small_model
from wavefold.engine.budget import budget_of
from wavefold.ops import Arithmetic, native
from wavefold.waves.schedule import Waves

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its routed experts take 150 MB, of which each of two ranks has half."""
    config = CONFIG.replace(
        n_routed_experts=64, hidden_size=512, moe_intermediate_size=1024, num_experts_per_tok=4,
        num_nextn_predict_layers=0, compress_ratios=(0, 4, 128),
    )  # fmt: skip
    folder = small_model(tmp_path_factory.mktemp("model") / "model", config)
    lines = [{"id": str(n), "prompt": [5 + n, 9, 40 * n], "max_tokens": 4, "temperature": 0} for n in range(6)]
    (folder.parent / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def batch(model: Path, out: Path, *flags: str, limit: str = "") -> subprocess.CompletedProcess[str]:
    words = ["batch", str(model.parent / "in.jsonl"), str(out), "--model", str(model), "--threads", "1", *flags]
    command, environment = torchrun(2, "-m", "wavefold", *words)
    if limit:
        command = [sys.executable, str(ROOT / "bench/resident.py"), "--limit", limit, "--", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, cwd=ROOT)


@pytest.mark.dist
def test_a_batch_under_a_budget(model: Path, tmp_path: Path) -> None:
    mapped = batch(model, tmp_path / "mapped")
    assert mapped.returncode == 0, mapped.stderr[-2000:]
    refused = batch(model, tmp_path / "refused", "--memory", "1M")
    assert refused.returncode != 0 and "is not enough for" in refused.stderr
    least = float(re.findall(r"expected ([\d.]+) GiB at least", refused.stderr)[0])
    memory = str(int(least * 2**30) + (30 << 20))
    streamed = batch(model, tmp_path / "streamed", "--memory", memory, limit=memory)
    assert streamed.returncode == 0, streamed.stderr[-2000:]
    slots, experts = map(int, re.findall(r"(\d+) of (\d+), \d+ %", streamed.stderr)[0])
    assert slots < experts == 96
    one, two = (sorted((tmp_path / name).read_text().splitlines()) for name in ("mapped", "streamed"))
    assert one == two and len(one) == 6
    again = batch(model, tmp_path / "streamed", "--memory", memory)
    assert again.returncode == 0 and "6 of 6 results are in" in again.stderr


@pytest.mark.dist
def test_a_budget_on_one_rank_alone_is_refused_on_both(model: Path) -> None:
    words = "-m", "wavefold", "run", str(model), "-p", "x", "--max-tokens", "1"
    for done in by_hand([*words, "--memory", "2G"], words):
        assert done.returncode == 2
        assert "memory differs: rank 0 has a budget, rank 1 has no budget" in done.stderr


def test_a_budget_is_of_one_process_of_the_machine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.engine.budget.memory_bytes", lambda: 8 << 30)
    assert budget_of(model, Arithmetic("released"), 5 << 30) is not None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"memory = 5.00 GiB is not allowed; .*, one of 2 on this machine, may have 4"):
        budget_of(model, Arithmetic("released"), 5 << 30)


def test_a_budget_counts_the_experts_of_a_share(model: Path) -> None:
    whole = budget_of(model, Arithmetic("released"), 2 << 30)
    assert whole is not None
    shares = [
        budget_of(model, Arithmetic("released"), 2 << 30, share=Waves(64, 3).experts_of(rank)) for rank in range(3)
    ]
    assert sum(share.experts for share in shares if share) == whole.experts
    assert [share.num_experts for share in shares if share] == [3 * 22, 3 * 21, 3 * 21]
