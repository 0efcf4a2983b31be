"""Removing models of a folder: what is asked for goes whole, nothing else does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from wavefold.atomic import holding
from wavefold.cli.main import main
from wavefold.pool.folder import entries
from wavefold.pool.pull import LOCK
from wavefold.pool.remove import plan_removal, remove

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`flash` with two adapters, GGUF files alone, in parts and in a folder, a link to a folder outside."""
    folder = tmp_path / "models"
    for name in ("flash", "cron", "dates"):
        (folder / name).mkdir(parents=True)
    (folder / "flash" / "config.json").write_text("{}")
    (folder / "flash" / "model.safetensors").write_bytes(b"12345")
    for name in ("cron", "dates"):
        (folder / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "flash"}))
        (folder / name / "adapter_model.safetensors").write_bytes(b"12")
    for name in ("tiny", "big-00001-of-00002", "big-00002-of-00002", "bigger-00001-of-00001"):
        (folder / f"{name}.gguf").write_bytes(b"123")
    (folder / "inside").mkdir()
    (folder / "inside" / "any.gguf").write_bytes(b"1")
    (folder / ".half.pull").mkdir()
    (folder / ".half.pull" / "model.safetensors.part").write_bytes(b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "config.json").write_text("{}")
    (tmp_path / "outside" / "model.safetensors").write_bytes(b"1")
    (folder / "linked").symlink_to(tmp_path / "outside")
    return folder


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("tiny", {"tiny.gguf"}), ("big", {"big-00001-of-00002.gguf", "big-00002-of-00002.gguf"}),
        ("inside", {"inside"}), ("flash:cron", {"cron"}), ("dates", {"dates"}), ("linked", {"linked"}),
        ("half", {".half.pull"}),
    ],
)  # fmt: skip
def test_one_goes(models: Path, name: str, gone: set[str], capsys: Capture) -> None:
    before = left(models)
    assert main(["rm", name, "--models", str(models), "--yes"]) == 0
    assert left(models) == before - gone
    assert (models.parent / "outside" / "model.safetensors").read_bytes() == b"1", "only the link goes"
    said = capsys.readouterr().out
    assert said.startswith("removed ") and all(word in said for word in gone)


def test_a_base_stays_while_adapters_need_it(models: Path, capsys: Capture) -> None:
    before = left(models)
    assert main(["rm", "flash", "--models", str(models), "--yes"]) == 2
    assert (
        "is the base of flash:cron, flash:dates; remove those first, or all by --with-adapters"
        in capsys.readouterr().err
    )
    assert left(models) == before
    assert main(["rm", "flash", "--models", str(models), "--yes", "--with-adapters"]) == 0
    assert left(models) == before - {"flash", "cron", "dates"}


@pytest.mark.parametrize("name", ["nothing", "../outside", "/etc", "..", ".", "", "flash/config.json", "cron:flash"])
def test_other_names_are_refused(models: Path, name: str, capsys: Capture) -> None:
    before = left(models)
    assert main(["rm", "--models", str(models), "--yes", "--", name]) == 2
    assert "names no model of" in (error := capsys.readouterr().err) and "expected one of big, bigger, flash," in error
    assert left(models) == before and left(models.parent) == {"models", "outside"}


def test_a_name_that_two_have_is_refused(models: Path, capsys: Capture) -> None:
    shutil.copytree(models / "flash", models / "tiny")
    shutil.copytree(models / "flash", models / "big")
    before = left(models)
    for name, both in (("tiny", "tiny and tiny.gguf"), ("big", "big and big-00001-of-00002.gguf")):
        assert main(["rm", name, "--models", str(models), "--yes"]) == 2
        assert f"{name}: {both} in {models} have one name; rename one" in capsys.readouterr().err
    assert left(models) == before


def test_a_pull_that_goes_on_stays(models: Path, capsys: Capture) -> None:
    with holding(models / ".half.pull" / LOCK):
        assert main(["rm", "half", "--models", str(models), "--yes"]) == 2
    assert "is held by process" in capsys.readouterr().err and ".half.pull" in left(models)


def test_it_asks(models: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []

    def answer(text: str) -> str:
        questions.append(text)
        return ("n", "", "Y")[len(questions) - 1]

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    before = left(models)
    for code in (1, 1):
        assert main(["rm", "tiny", "--models", str(models)]) == code
        assert left(models) == before and "nothing was removed" in capsys.readouterr().out
    assert main(["rm", "tiny", "--models", str(models)]) == 0 and left(models) == before - {"tiny.gguf"}
    assert questions[0] == f"remove tiny (0.0 MiB: {models / 'tiny.gguf'})? [y/N] "
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(["rm", "inside", "--models", str(models)]) == 2 and "give --yes" in capsys.readouterr().err


def test_what_a_kill_leaves_is_hidden_and_goes_with_the_next(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removal = plan_removal(models, "inside")
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove(removal)
    assert "inside" not in entries(models)
    remains = [path for path in models.iterdir() if path.name.startswith(".inside.")]
    monkeypatch.undo()
    assert len(remains) == 1
    (models / "inside").mkdir()
    (models / "inside" / "again.gguf").write_bytes(b"1")
    with pytest.warns(match="that an interrupted write had left"):
        remove(plan_removal(models, "inside"))
    assert not [name for name in left(models) if "inside" in name]


def test_a_mapped_file_stays_readable(models: Path) -> None:
    import mmap

    with (models / "tiny.gguf").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        remove(plan_removal(models, "tiny"))
        assert not os.path.lexists(models / "tiny.gguf") and mapped[:] == b"123"
