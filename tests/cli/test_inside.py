"""`wavefold inside`: the table, the files, and what cannot be looked at."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from wavefold import LLM
from wavefold.cli.main import main
from wavefold.config import LayerSpec
from wavefold.inside import EntriesSeen, LayerSeen, inside_answer
from wavefold.inside.figure import columns, strip

Capture = pytest.CaptureFixture[str]
TEXT = "def main():\n    return [1, 2, 3]\n" * 6


def test_the_table_and_the_record(model: Path, tmp_path: Path, capsys: Capture) -> None:
    record = tmp_path / "record.json"
    assert main(["inside", str(model), "-p", TEXT, "--position", "150", "--json", str(record)]) == 0
    out = capsys.readouterr().out
    with LLM(model, prefix_cache=False) as llm:
        answer = inside_answer(llm, {"text": TEXT, "position": 150})
        assert json.loads(record.read_text()) == answer
        assert llm.tokenizer is not None
    assert "token 150 of 199" in out and "0 csa" in out and "1 hca" in out
    assert "8 chosen from 37" in out and "% of 1 " in out
    assert f"next: {answer['top'][0]['text']!r}" in out  # type: ignore[index]
    assert "the text goes on with" in out


def test_the_last_token_and_other_sources(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\n"))
    assert main(["inside", str(model)]) == 0
    of_text = capsys.readouterr().out
    assert "token 2 of 3: 'b'" in of_text and "goes on" not in of_text
    with LLM(model) as llm:
        ids = llm.tokenizer.encode("ab", bos=True)  # type: ignore[union-attr]
    (tmp_path / "ids").write_text(json.dumps(ids))
    assert main(["inside", str(model), "--tokens", str(tmp_path / "ids")]) == 0
    assert capsys.readouterr().out == of_text


def test_a_figure(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'wavefold[train]'")
    figures = [tmp_path / name for name in ("a.svg", "b.svg")]
    for figure in figures:
        assert main(["inside", str(model), "-p", TEXT, "--svg", str(figure)]) == 0
    text = figures[0].read_text()
    assert text == figures[1].read_text()
    assert all(name in text for name in ("<image", "0 csa", "1 hca", "sink"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json", "{tmp}/none/a"], "--json {tmp}/none/a is not allowed"),
        (["--svg", "{tmp}"], "--svg {tmp} is not allowed; expected the name of a file"),
        (["--svg", "{tmp}/a.pdf"], "expected a name that ends in .svg or .png"),
        (["--position", "99"], "--position 99 is not allowed; expected a whole number from 0 to 2"),
        (["--position", "-1"], "--position -1 is not allowed"),
    ],
)
def test_what_cannot_be_looked_at(
    model: Path, tmp_path: Path, arguments: list[str], says: str, capsys: Capture
) -> None:  # fmt: skip
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["inside", str(model), "-p", "ab", *arguments]) == 2
    assert says.format(tmp=tmp_path) in capsys.readouterr().err


def test_a_strip_holds_all_but_the_sink() -> None:
    spec = LayerSpec(1, 4, 4, overlap=True, indexed=True, hashed=False)
    entries = EntriesSeen(2, torch.tensor([0.25, 0.0625]), torch.tensor([1, 0]), torch.tensor([2.0, 1.0]))
    layer = LayerSeen(spec, torch.full((4,), 0.125), entries, 0.1875, torch.tensor([0]), torch.tensor([1.0]))
    assert strip(layer, 9).tolist() == [1 / 64] * 4 + [1 / 16] * 2 + [3 / 16] * 2 + [1 / 8] * 2
    long = torch.rand(2345)
    assert columns(long).shape == (1000,) and float(columns(long).sum()) == pytest.approx(float(long.sum()))
    assert columns(long[:900]).tolist() == long[:900].tolist()
