"""`wavefold init`."""

import json
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from wavefold import ModelConfig, load
from wavefold.chat import Tokenizer, byte_tokenizer
from wavefold.cli.main import main

Capture = pytest.CaptureFixture[str]


def init(out: Path, config: Path | str, *more: str) -> int:
    return main(["init", "--config", str(config), "--out", str(out), *more])


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_model_and_tokenizer(model: Path, config_file: Path) -> None:
    assert load(model, "exact").config == ModelConfig.from_file(config_file)
    assert Tokenizer.load(model).vocab_size == byte_tokenizer().vocab_size
    assert stat.S_IMODE(model.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in model.iterdir()} == {0o600}


def test_seed(model: Path, config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert init(tmp_path / "same", config_file, "--seed", "3") == 0
    assert init(tmp_path / "other", config_file, "--seed", "4") == 0
    assert content(tmp_path / "same") == content(model)
    assert content(tmp_path / "other") != content(model)
    assert "2 layers, 3 experts" in capsys.readouterr().out


def test_slice_of_a_preset(tmp_path: Path, capsys: Capture) -> None:
    assert init(tmp_path / "cut", "nano", "--layers", "1", "--experts", "3", "--vocab", "290") == 0
    config = load(tmp_path / "cut", "exact").config
    assert (config.num_hidden_layers, config.n_routed_experts, config.vocab_size) == (1, 3, 290)
    assert config.hidden_size == ModelConfig.preset("nano").hidden_size


def test_vocabulary_without_room_for_a_tokenizer(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    assert init(tmp_path / "small", config_file, "--vocab", "256") == 0
    assert not (tmp_path / "small" / "tokenizer.json").exists()
    assert "no tokenizer: 285 tokens do not fit a vocabulary of 256" in capsys.readouterr().out


def test_folder_in_use(model: Path, config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    assert init(folder, config_file) == 2
    assert "is not empty; give another folder, or --force" in capsys.readouterr().err
    assert content(folder) == content(model)
    assert init(folder, config_file, "--force") == 0
    assert content(folder) != content(model)


def test_force_replaces_only_checkpoints(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    assert init(tmp_path / "thesis", config_file, "--force") == 2
    assert "is no checkpoint" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_disk_too_small(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    assert init(tmp_path / "flash", "flash", "--layers", "1") == 2
    assert "needs 9.3 GB of disk, 1.0 GB are free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        ("huge", [], "huge: no such file, nor a preset; presets are flash, nano, pro"),
        ("nano", ["--layers", "99"], "layers = 99 is not allowed; expected 1 to"),
        ("nano", ["--experts", "1"], "num_experts_per_tok"),
        ("nano", ["--vocab", "0"], "vocab_size = 0 is not allowed"),
        ("nano", ["--seed", "-1"], "--seed -1 is not allowed; expected 0 or more"),
    ],
)
def test_mistakes(config: str, more: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    assert init(tmp_path / "out", config, *more) == 2
    err = capsys.readouterr().err
    assert err.startswith("wavefold: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_unusable_config(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 3}))
    assert init(tmp_path / "out", tmp_path) == 2
    assert "config.json: config: missing hidden_size" in capsys.readouterr().err
