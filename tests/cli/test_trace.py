"""`wavefold trace` and `wavefold plan MODEL --trace FILE`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from wavefold.cli.main import main
from wavefold.experts.traces import read_trace, write_trace
from wavefold.experts.traces.synthetic import zipf_trace

Capture = pytest.CaptureFixture[str]


def test_prompts_from_anywhere(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Flags, a file and stdin give one trace; the answers that a line asks for are its own."""
    flags, file, stdin = (str(tmp_path / name) for name in ("flags", "file", "stdin"))
    assert main(["trace", str(model), "-o", flags, "-p", "ab", "-p", "cd", "--max-tokens", "3"]) == 0
    (tmp_path / "in").write_text('"ab"\n{"prompt": "cd", "max_tokens": 3}\n')
    assert main(["trace", str(model), "-o", file, "--prompts", str(tmp_path / "in"), "--max-tokens", "3"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\ncd\n"))
    assert main(["trace", str(model), "-o", stdin, "--max-tokens", "3", "--width", "1"]) == 0
    trace, *others = (read_trace(Path(name)) for name in (flags, file, stdin))
    for other in others:
        assert np.array_equal(trace.rows, other.rows) and np.array_equal(trace.ids, other.ids)
    assert trace.num_layers == 2 and trace.rows.tolist()[1:3] == [1, 1]
    assert "2 layers, 2 of 3 experts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "{tmp}/none/a", "-p", "a"], "expected the name of a file in a folder that exists"),
        (["-o", "{tmp}/a", "--prompts", "{tmp}/bad"], "line 1"),
        (["-o", "{tmp}/a", "-p", "a", "--max-tokens", "0"], "max_tokens = 0"),
        (["-o", "{tmp}/a", "-p", "a", "--width", "0"], "--width 0"),
    ],
)
def test_what_cannot_be_recorded(
    model: Path, tmp_path: Path, arguments: list[str], says: str, capsys: Capture
) -> None:  # fmt: skip
    (tmp_path / "bad").write_text("[1, 2\n")
    assert main(["trace", str(model), *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_no_prompt(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["trace", str(model), "-o", str(tmp_path / "a")]) == 2
    assert "no prompt; give one with -p TEXT" in capsys.readouterr().err


@pytest.fixture
def nano_trace(tmp_path: Path) -> Path:
    write_trace(tmp_path / "trace", zipf_trace([20] + [1] * 200, 4, 6, 2, 1.0, expert_bytes=10**6))
    return tmp_path / "trace"


def test_the_plan_of_a_trace(nano_trace: Path, tmp_path: Path, capsys: Capture) -> None:
    figure = tmp_path / "hits.svg"
    plan = ["plan", "nano", "--context", "4096", "--trace", str(nano_trace)]
    assert main([*plan, "--json", "--slots", "6,12,24", "--plot", str(figure)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["num_slots"] for row in values["sizes"]] == [6, 12, 24]
    row = values["sizes"][1]
    assert max(row["hits"].values()) == row["hits"]["optimum"]
    assert row["bytes_per_token"] > 0 == values["sizes"][2]["bytes_per_token"]
    assert row["memory"] > row["slot_bytes"] > 12 * 10**6
    assert 1 - values["recommended"]["fewest"]["hits"]["slots"] <= 0.1
    assert figure.read_bytes().startswith(b"<?xml")
    assert main(plan) == 0
    out = capsys.readouterr().out
    assert "at most 10% read from disk" in out and "the knee" in out


def test_rates_by_the_disk(nano_trace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavefold.cli.plan_trace.disk_rate", lambda args: 2e9)
    plan = ["plan", "nano", "--context", "4096", "--trace", str(nano_trace), "--machine", "--slots", "6,24"]
    assert main([*plan, "--json"]) == 0
    few, every = json.loads(capsys.readouterr().out)["sizes"]
    assert few["tokens_per_s"] == pytest.approx(2e9 / few["bytes_per_token"])
    assert every["tokens_per_s"] is None
    assert main(plan) == 0
    assert "no reads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["flash", "--trace", "{trace}"], "4 layers of 6 experts, 2 a token are not those of flash"),
        (["nano", "--trace", "{trace}", "--slots", "2"], "2 slots are not allowed; expected 4"),
        (["nano", "--trace", "{trace}", "--read", "2"], "a share of 2.0 to read is not allowed"),
        (["nano", "--trace", "{trace}", "--plot", "a.gif"], "must end in .svg or .png"),
        (["nano", "--trace", "/dev/null"], "/dev/null: "),
        (["nano", "--trace", "/nowhere/a"], "/nowhere/a"),
    ],
)
def test_what_cannot_be_planned(nano_trace: Path, arguments: list[str], says: str, capsys: Capture) -> None:
    assert main(["plan", *(argument.format(trace=nano_trace) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err
