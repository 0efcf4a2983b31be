"""`wavefold plan FOLDER` says what the files hold; the oracle of the counts is the safetensors library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.small import SMALL
from wavefold.checkpoint import random_checkpoint
from wavefold.checkpoint.count import count_files
from wavefold.cli.main import main

CONFIG = SMALL.replace(compress_ratios=(0, 4, 128, 0), num_nextn_predict_layers=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_checkpoint(CONFIG, tmp_path / "model", 0)
    return tmp_path / "model"


def plan(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["plan", str(folder), "--context", "4096", *flags]) == 0
    return capsys.readouterr().out


def test_a_folder_is_what_the_formula_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(plan(folder, capsys, "--json"))
    assert facts["formula"] == {"tensors": facts["files"]["tensors"], "bytes": facts["files"]["bytes"]}
    assert facts["files"]["extra"] == facts["files"]["missing"] == []
    assert facts["num_tensors"] == sum(len(safe_open(path, "pt").keys()) for path in folder.glob("*.safetensors"))
    shutil.copy(folder / "config.json", folder.parent / "config.json")
    assert "files" not in json.loads(plan(folder.parent / "config.json", capsys, "--json"))


def test_a_drafter_beside_the_mtp_module_is_counted_and_named(folder: Path, capsys) -> None:
    """As in the DSpark folders: more blocks under `mtp.` than `num_nextn_predict_layers` announces."""
    shard = max(folder.glob("*.safetensors"))
    drafter = {"mtp.1.norm.weight": torch.zeros(64), "mtp.2.confidence.weight": torch.zeros(1, 64)}
    save_file(load_file(shard) | drafter, shard)
    before = count_files(folder, CONFIG)
    assert before is not None and before.extra == tuple(drafter) and before.extra_bytes == 512
    out = plan(folder, capsys)
    assert "2 tensors in the files alone (0.00 GB; the figures below do not count them): mtp.1 (1), mtp.2 (1)" in out
    facts = json.loads(plan(folder, capsys, "--json"))
    assert facts["num_tensors"] == facts["formula"]["tensors"] + 2
    assert facts["weight_bytes"] == facts["formula"]["bytes"] + 512


def test_a_shard_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    names = list(safe_open(shard, "pt").keys())
    shard.unlink()
    assert f"{len(names)} tensors of the configuration's model are in no file: layers.0 ({len(names)})" in plan(
        folder, capsys
    )


def test_a_weight_in_bfloat16_has_no_scale_to_miss(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    name = "layers.0.attn.wq_a"
    tensors[f"{name}.weight"] = torch.zeros(32, 64, dtype=torch.bfloat16)
    del tensors[f"{name}.scale"]
    save_file(tensors, shard)
    found = count_files(folder, CONFIG)
    assert found is not None and found.missing == found.extra == ()


def test_a_truncated_file_is_a_mistake(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["plan", str(folder), "--context", "4096"]) == 2
    assert f"{shard}: not a readable safetensors file" in capsys.readouterr().err
