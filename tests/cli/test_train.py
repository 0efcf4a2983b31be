"""`wavefold train`, whole, on a tiny model: what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.train.tiny import CONFIG, write_corpus
from wavefold.cli.main import main

FLAGS = [
    "--steps",
    "4",
    "--seq-len",
    "160",
    "--batch-tokens",
    "320",
    "--warmup",
    "2",
    "--eval-every",
    "2",
    "--save-every",
    "2",
    "--dtype",
    "float32",
]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    return path


def train(config: Path, data: Path, out: Path, *more: str) -> int:
    return main(["train", "--config", str(config), "--data", str(data), "--out", str(out), *FLAGS, *more])


def test_leaves_a_model_that_runs_a_report_and_a_curve(config_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(config_file, write_corpus(tmp_path / "corpus"), out) == 0
    assert "bits per byte" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["xz"] > 0 and report["gzip"] > 0 and report["model"] > 0 and report["hours"] > 0
    assert len((out / "log.jsonl").read_text().splitlines()) == 4
    assert (out / "curve.svg").read_text().startswith("<?xml")
    assert list((out / "tensorboard").iterdir())
    assert main(["run", str(out / "model"), "-p", "def f", "--max-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] > 1


def test_a_finished_run_only_reports_again(config_file, tmp_path):
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    train(config_file, data, out)
    first = json.loads((out / "report.json").read_text())
    assert train(config_file, data, out) == 0
    assert json.loads((out / "report.json").read_text())["model"] == first["model"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config", "no-such-preset"], "presets are flash, nano, pro"),
        (["--data", "no/such/folder"], "expected 'stdlib' or an existing folder"),
        (["--steps", "0"], "steps = 0 is not allowed"),
        (["--seq-len", "100000"], "fewer than one sequence"),
        (["--peak-lr", "0.5"], "holds the state of a run with"),
    ],
)
def test_mistakes_are_one_message(config_file, tmp_path, capsys, flags, message):
    data, out = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    if flags[0] == "--peak-lr":
        train(config_file, data, out)
    assert train(config_file, data, out, *flags) == 2
    assert message in capsys.readouterr().err
