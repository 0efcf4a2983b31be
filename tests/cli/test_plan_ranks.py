"""`wavefold plan --ranks`: what it prints and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wavefold.cli.main import main
from wavefold.config import ModelConfig

RATES = ["--tflops", "0.38", "--memory", "40"]


def test_it_prints_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "plan.svg"
    assert (
        main(["plan", "flash", "--ranks", "2", "--link", "1gbit", "--tokens", "64", *RATES, "--timeline", str(drawn)])
        == 0
    )
    assert "64 tokens" in capsys.readouterr().out and "<svg" in drawn.read_text()


def test_experts_in_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are read from memory in 2 bytes a weight, not in FP4's 17/32: a decode step takes that much longer."""
    plans = {}
    for form in ("fp4", "bf16"):
        path = tmp_path / f"{form}.json"
        path.write_text(json.dumps(ModelConfig.preset("nano").replace(expert_dtype=form).to_dict()))
        assert main(["plan", str(path), "--ranks", "2", "--json", "--tokens", "1", *RATES]) == 0
        plans[form] = json.loads(capsys.readouterr().out)[0]
    assert plans["bf16"]["memory_s"] == pytest.approx(plans["fp4"]["memory_s"] * 2 / (17 / 32))


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nano", "--ranks", "2", "--link", "0.0125", "--json", *RATES]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [plan["tokens"] for plan in plans] == [1, 2048] and plans[1]["limit"] in ("link", "products", "memory")
    assert all(plan["bound_s"] <= plan["seconds"] <= 1.01 * plan["naive_s"] for plan in plans)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--link", "fast"], "expected gigabytes a second"), (["--link", "0"], "expected gigabytes"),
     (["--tokens", "8", "--timeline", "plan.txt"], r"svg or .png"), (["--tokens", "-1"], "tokens"),
     (["--hot", "-1"], "hot"), (["--tflops", "0"], "tflops")],
)  # fmt: skip
def test_what_it_refuses(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(["plan", "nano", "--ranks", "2", *RATES, *flags]) == 2
    except SystemExit as end:
        assert end.code == 2
    assert message in capsys.readouterr().err
