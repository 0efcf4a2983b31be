"""`wavefold run` over two processes: the tokens of one, each reading its share, an error where a rank dies."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import torchrun
from wavefold.checkpoint import load
from wavefold.checkpoint.random import random_checkpoint
from wavefold.config import ModelConfig
from wavefold.model.official import official_tensors
from wavefold.waves import agreement

pytestmark = pytest.mark.dist

CONFIG = ModelConfig.preset("nano").replace(
    vocab_size=320, hidden_size=64, num_hidden_layers=3, compress_ratios=(0, 4, 128), head_dim=64,
    qk_rope_head_dim=16, q_lora_rank=32, o_groups=1, o_lora_rank=32, index_n_heads=2, index_head_dim=32, index_topk=8,
    n_routed_experts=6, moe_intermediate_size=64, num_hash_layers=1, num_nextn_predict_layers=0,
)  # fmt: skip
PROMPT = [7 * i % 300 for i in range(150)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "model"
    random_checkpoint(CONFIG, folder, 0)
    (folder.parent / "prompt.json").write_text(json.dumps(PROMPT))
    return folder


def complete(model: Path, processes: int, *flags: str) -> subprocess.CompletedProcess[str]:
    run = ["-m", "wavefold", "run", str(model), "--tokens", str(model.parent / "prompt.json"), "--max-tokens", "12",
           "--temperature", "0", "--json", "--threads", "1", *flags]  # fmt: skip
    command, environment = torchrun(processes, *run)
    if processes == 1:
        command = [sys.executable, *run]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("flags", [("--arithmetic", "released", "--back", "fp32"),
                                   pytest.param(("--arithmetic", "exact"), marks=pytest.mark.slow)])  # fmt: skip
def test_two_ranks_give_the_tokens_of_one(model: Path, flags: tuple[str, ...]) -> None:
    one, two = complete(model, 1, *(flags[:2])), complete(model, 2, "--waves", "2", *flags)
    assert two.returncode == 0, two.stderr[-2000:]
    assert json.loads(two.stdout)["tokens"] == json.loads(one.stdout)["tokens"]


def test_a_rank_reads_its_experts_alone(model: Path) -> None:
    mine = load(model, "exact", experts=range(3))
    whole = dict(official_tensors(load(model, "exact")))
    for name, parameter in official_tensors(mine):
        theirs = any(f".experts.{expert}." in name for expert in (3, 4, 5))
        assert parameter.is_meta == theirs, name
        assert theirs or torch.equal(parameter.view(torch.uint8), whole[name].view(torch.uint8))


def test_other_ranks_files_may_be_missing(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from wavefold.checkpoint.files import read_tensors

    tensors = {name: t for name, t in read_tensors(model).items() if ".experts.0." not in name}
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    load(tmp_path, "exact", experts=range(1, 6))
    with pytest.raises(ValueError, match=r"missing: layers.0.ffn.experts.0"):
        load(tmp_path, "exact", experts=range(3))


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is rank 0 of two; the other one says nothing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(agreement, "joined", contextlib.nullcontext)
    monkeypatch.setattr(agreement, "_exchange", lambda values: [values, values])


@pytest.mark.usefixtures("one_of_two")
def test_several_processes_do_not_ask(capsys: pytest.CaptureFixture[str]) -> None:
    from wavefold.cli.main import main

    assert main(["run"]) == 2
    assert "-p TEXT" in capsys.readouterr().err


@pytest.mark.usefixtures("one_of_two")
def test_several_processes_run_on_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    from wavefold.cli.main import main

    assert main(["run", "-p", "x", "--device", "meta"]) == 2
    assert "--device meta is not allowed over several processes" in capsys.readouterr().err


def test_one_rank_gives_the_bits_of_two(model: Path) -> None:
    flags = ("--arithmetic", "released", "--dtype", "bfloat16", "--back", "bf16", "--waves")
    one, two = complete(model, 1, *flags, "1"), complete(model, 2, *flags, "3")
    assert one.returncode == two.returncode == 0, two.stderr[-2000:]
    assert json.loads(two.stdout)["tokens"] == json.loads(one.stdout)["tokens"]
