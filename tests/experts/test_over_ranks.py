"""Streamed experts over two ranks: the bits of mapped files over the same ranks, and errors that all ranks learn of."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.experts.over_ranks import SLOTS
from tests.experts.test_streamed import CONFIG
from tests.processes import torchrun
from tests.small import small_model
from wavefold.ops import native

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built"),
]
READ_ERROR = r"rank {}: /\S+\.safetensors: byte [\d,]+ could not be read \(Input/output error\)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIG.replace(num_nextn_predict_layers=0, compress_ratios=(0, 4, 128))
    return small_model(tmp_path_factory.mktemp("streamed") / "model", config)


@pytest.fixture(scope="module")
def ranks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two ranks found."""
    out = tmp_path_factory.mktemp("found")
    command, environment = torchrun(2, "-m", "tests.experts.over_ranks", str(folder), str(out))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def test_logits_are_those_of_mapped_files(ranks: list[dict]) -> None:
    for found in ranks:
        assert all(found[f"{backend} {slots}"] for backend in SLOTS for slots in SLOTS[backend]), found


def test_hints_reach_the_share_of_each_rank(ranks: list[dict]) -> None:
    """The hashed layer's and those of look-ahead; of what was asked for, all was here or read."""
    for found in ranks:
        hashed, *guessed = found["ahead"]
        assert hashed > 0 and all(used > 0 for used in guessed)
        assert found["asked"][0] == found["asked"][1] > 100


def test_a_read_error_ends_a_pass_on_all_ranks(ranks: list[dict]) -> None:
    first, second = (found["pass errors"] for found in ranks)
    assert first == second and len(first) == 4
    for error, rank in zip(first, (1, 0, 1, 0), strict=True):
        assert re.fullmatch(READ_ERROR.format(rank), error)
    assert all(found["after errors"] for found in ranks)


def test_answers_under_budgets_that_differ(ranks: list[dict]) -> None:
    """Tokens of mapped files. Requests that needed what could not be read end with an error; the next ones go on."""
    first, second = ranks
    assert first["streamed"] == first["mapped"] and len(first["mapped"]) == 5
    assert first["numbers"] == second["numbers"] and first["num_slots"] > second["num_slots"] >= 3
    assert first["answer errors"]
    assert all(re.fullmatch(READ_ERROR.format(1), error) for error in first["answer errors"])
    assert second["notices"] == [f"a pass failed on all ranks: {error}" for error in first["answer errors"]]
