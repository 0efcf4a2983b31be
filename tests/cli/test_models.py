"""MODEL on the command line: what a user is told who gives something else than a checkpoint folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.gguf_files import TINY
from wavefold.cli.main import main

FLASH = "deepseek-ai/DeepSeek-V4-Flash"
DOWNLOAD = f"`wavefold pull {FLASH} --models DIR`, then `wavefold run DIR/DeepSeek-V4-Flash`"
RUN = ["run", "-p", "a"]
COMMANDS = [RUN, ["bench", "context"], ["bench", "speed"], ["plan"], ["bench", "cache"]]


def refused(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that tells of the mistake."""
    assert main([*command, name]) == 2
    err = capsys.readouterr().err
    assert err.startswith("wavefold: error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("name", [FLASH, f"https://huggingface.co/{FLASH}", f"https://hf.co/{FLASH}/tree/main"])
def test_a_repository_is_to_be_downloaded(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert DOWNLOAD in refused(command, name, capsys)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("exists", [True, False])
def test_a_gguf_file_that_cannot_be_read(
    command: list[str], exists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    if exists:
        path.write_bytes(b"GGUF")
    message = "no such folder"
    if exists:
        of_folders = command[1:] == ["context"]
        message = "is a GGUF file, which is not read here" if of_folders else "not a readable GGUF file (4 bytes"
    assert f"{path}: {message}" in refused(command, str(path), capsys)


def test_plan_and_run_take_a_gguf_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(TINY), "--json", "--context", "1000"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["num_tensors"] == 80 and not planned["files"]["missing"] and not planned["files"]["extra"]
    assert main(["run", str(TINY), "--prompt", "def add(", "--max-tokens", "3", "--temperature", "0"]) == 0
    assert "answer 3 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no config.json; expected a GGUF file, or a folder with an official config.json and *.safetensors"),
        (["model.safetensors"], "holds no config.json; add the config.json that belongs to its weights"),
        (["q4.gguf"], "holds no config.json; give its GGUF file, of several parts the first: {folder}/q4.gguf"),
        (["flash/config.json"], "holds no config.json; give a folder in it that does: flash"),
        (["snapshots/0ab/config.json"], "a folder of the hub's cache: give {folder}/snapshots/0ab"),
    ],
)
def test_a_folder_without_config(
    files: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert message.format(folder=tmp_path) in refused(RUN, str(tmp_path), capsys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "holds weights alone; give its folder, which must hold config.json too"),
        ("config.json", "is a file; give a GGUF file, or the folder with its config.json and *.safetensors"),
        ("model.bin", "is not read, as it may hold code; use the official safetensors"),
    ],
)
def test_a_file(name: str, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(model / "config.json", tmp_path / name)
    assert message in refused(RUN, str(tmp_path / name), capsys)


def test_a_preset_has_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert "wavefold init --config flash --out DIR makes random ones" in refused(RUN, "flash", capsys)


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(RUN, str(tmp_path / "nowhere"), capsys)
    assert (
        "nowhere: no such folder; expected a GGUF file, or a folder with an official config.json and *.safetensors"
        in message
    )
