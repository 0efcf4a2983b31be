"""A run of two processes against a run of one: the same curve to float tolerance, the same files, the same again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.train.tiny import torchrun, write_corpus
from wavefold.data.batches import pack


@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_are_a_batch_once_and_about_equal(size: int) -> None:
    lengths = [50, 9, 30, 30, 12, 8, 41]
    first, pieces = 0, []
    for length in lengths:
        pieces.append(np.arange(first, first + length + 1, dtype=np.int32))
        first += 1000
    whole = pack(pieces)
    shares = [whole.share(rank, size) for rank in range(size)]
    assert sorted(torch.cat([share.tokens for share in shares]).tolist()) == sorted(whole.tokens.tolist())
    for share in shares:
        assert sum(share.lengths) == len(share.tokens) == len(share.targets)
        assert torch.equal(share.targets, share.tokens + 1)  # no piece was cut or mixed with another
    loads = [len(share.tokens) for share in shares]
    assert max(loads) - min(loads) <= max(lengths)
    assert whole.share(0, 1) is whole


def test_a_share_may_be_empty() -> None:
    whole = pack([np.arange(10, dtype=np.int32)])
    assert whole.share(0, 2).lengths == (9,)
    assert whole.share(1, 2).lengths == () and len(whole.share(1, 2).tokens) == 0


def train(folder: Path, data: Path, processes: int, *settings: str) -> list[dict]:
    """The log of a run by the command line."""
    folder.mkdir()
    command, environment = torchrun(
        processes, folder, data, "steps=6", "mtp_every=2", "eval_every=3", "save_every=3", *settings
    )
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "out" / "report.json").exists() and (folder / "out" / "model" / "config.json").exists()
    return [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "corpus")
    one, two, again = (train(tmp_path / name, data, n) for name, n in (("one", 1), ("two", 2), ("again", 2)))
    keys = ("step", "loss", "mtp_loss", "lr", "grad_norm", "load", "tokens", "held_out")
    curves = [[[line[key] for key in keys] for line in log] for log in (one, two, again)]
    assert curves[1] == curves[2]  # the same number of processes, the same bits
    one_log, two_log = one[0], two[0]
    for key in keys:  # before anything has moved: losses, and the norm of all gradients together
        assert (one_log[key] is None) == (two_log[key] is None)
        tolerance = 1e-3 if key == "grad_norm" else 1e-6  # a share's gradients of bfloat16 tensors are rounded to it
        assert one_log[key] is None or one_log[key] == pytest.approx(two_log[key], rel=tolerance)
    for mine, theirs in zip(one, two, strict=True):  # then AdamW's first steps and FP4's steps enlarge the last bits
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
        assert (mine["held_out"] or 0) == pytest.approx(theirs["held_out"] or 0, rel=0.01)


@pytest.mark.slow
def test_four_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """Without quantization, whose steps enlarge the last bits: dense parameters in four shards, six steps of Muon.

    Newton-Schulz multiplies in bfloat16, so sums in another order come back from it as differences of 1e-3 in an
    update: the first step's numbers are equal to float32's tolerance, later losses to a few times 1e-4, and gradients,
    which are further derivatives of the same, to 1e-2.
    """
    data = write_corpus(tmp_path / "corpus")
    one, four = (train(tmp_path / str(n), data, n, "quantize=none") for n in (1, 4))
    for mine, theirs in zip(one, four, strict=True):
        first = mine["step"] == 1
        for key, later in (("loss", 5e-4), ("mtp_loss", 5e-4), ("held_out", 5e-4), ("grad_norm", 1e-2)):
            assert (mine[key] is None) == (theirs[key] is None)
            if mine[key] is not None:
                rel = 1e-6 if first else later
                assert mine[key] == pytest.approx(theirs[key], rel=rel), (mine["step"], key)
        assert mine["tokens"] == theirs["tokens"] and mine["lr"] == theirs["lr"]


def test_experts_over_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """Each process has its experts alone, tokens meet them in waves; a state of two goes on as one."""
    data = write_corpus(tmp_path / "corpus")
    plain = train(tmp_path / "plain", data, 1, "quantize=none")
    one, two = (train(tmp_path / str(n), data, n, "quantize=none", "expert_waves=2") for n in (1, 2))
    for mine, others in zip(plain, zip(one, two, strict=True), strict=True):
        first = mine["step"] == 1
        for key, later in (("loss", 5e-4), ("mtp_loss", 5e-4), ("held_out", 5e-4), ("grad_norm", 1e-2)):
            for theirs in others:
                assert (mine[key] is None) == (theirs[key] is None)
                if mine[key] is not None:
                    rel = 1e-6 if first else later
                    assert mine[key] == pytest.approx(theirs[key], rel=rel), (mine["step"], key)
    assert state_names(tmp_path / "2") == state_names(tmp_path / "plain")


def state_names(folder: Path) -> set[str]:
    """Tensors of a run's newest state."""
    newest = sorted((folder / "out" / "state").glob("step-*"))[-1]
    return {name for file in newest.glob("*.safetensors") for name in safe_open(file, "pt").keys()}  # noqa: SIM118


@pytest.mark.slow
def test_a_state_of_two_processes_with_their_experts_goes_on_as_one(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "corpus")
    whole = train(tmp_path / "whole", data, 2, "expert_waves=2", "quantize=none")
    folder = tmp_path / "whole"
    shutil.rmtree(folder / "out" / "state" / "step-000006")
    command, environment = torchrun(1, folder, data, "steps=6", "mtp_every=2", "eval_every=3", "save_every=3",
                                    "expert_waves=2", "quantize=none")  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    again = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    assert again[:3] == whole[:3] and len(again) == 6
    assert again[3]["loss"] == pytest.approx(whole[3]["loss"], rel=1e-5)
    assert again[5]["loss"] == pytest.approx(whole[5]["loss"], rel=5e-4)
