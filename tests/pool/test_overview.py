"""`wavefold models`: what is known of each model of a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wavefold.checkpoint.fingerprint import fingerprint
from wavefold.checkpoint.side_files import side_files
from wavefold.cli.main import main
from wavefold.locate import DEFAULT_MODEL
from wavefold.pool.hub import RemoteFile
from wavefold.pool.last_used import serve
from wavefold.pool.record import RECORD, Record
from wavefold.quality.card import Card
from wavefold.quality.statistics import Figure

Capture = pytest.CaptureFixture[str]
FILES = {"model.safetensors": RemoteFile("model.safetensors", 100, "0" * 64, True)}
RECORDED = Record("someone/flash", "main", "0123456789abcdef" * 2 + "01234567", (), "2026-11-30T08:00:00+00:00", FILES)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """A folder that a server has."""
    folder = tmp_path / "models"
    for name in ("flash", "empty", "tiny.quality", ".half.pull"):
        (folder / name).mkdir(parents=True)
    (folder / "flash" / "config.json").write_text("{}")
    (folder / "flash" / "model.safetensors").write_bytes(b"12345")
    (folder / "empty" / "config.json").write_text("{}")
    (folder / "tiny.gguf").write_bytes(b"1")
    RECORDED.save(folder / "flash")
    RECORDED.save(folder / ".half.pull")
    (folder / ".half.pull" / "model.safetensors.part").write_bytes(bytes(60))
    for place, name, value in (("flash", "bits per byte", 3.0), ("tiny.quality", "valid answers", 1.0)):
        figure = Figure("text" if place == "flash" else "forms", name, "all", (value,), (2.0,), "lower", False)
        other = Figure("needles", "other", "all", (1.0,), (1.0,), "lower", False)
        Card({}, None, {}, {}, {}, (figure, other) if place != "flash" else (other, figure)).save(folder / place)
    (folder / ".wavefold").mkdir()
    notes = {"flash": {"last_used": "2026-11-29T12:34:56+00:00", "state": "loaded"}, "gone": {}, "tiny": 3}
    (folder / ".wavefold" / "pool.json").write_text(json.dumps({"models": notes}))
    server = serve(folder)
    yield folder
    os.close(server)


def listed(folder: Path, capsys: Capture) -> dict[str, dict[str, Any]]:
    assert main(["models", str(folder), "--json"]) == 0
    return {line["name"]: line for line in json.loads(capsys.readouterr().out)}


def test_json(models: Path, capsys: Capture) -> None:
    found = listed(models, capsys)
    assert list(found) == ["empty", "flash", "tiny", "half"]
    pulled = {"repo": "someone/flash", "revision": "main", "commit": RECORDED.commit, "time": RECORDED.time}
    assert found["flash"] == {
        "name": "flash", "kind": "official", "path": str(models / "flash"), "base": None, "bytes": 5, "full_bytes": 5,
        "card": {"figure": "bits per byte", "of": "all", "value": 1.5}, "last_used": "2026-11-29T12:34:56+00:00",
        "state": "loaded", "pulled": pulled, "faults": [],
    }  # fmt: skip
    assert found["tiny"]["card"] == {"figure": "valid answers", "of": "all", "value": 0.5}
    assert (found["tiny"]["last_used"], found["tiny"]["pulled"]) == (None, None)
    assert found["empty"]["faults"] == ["it holds no *.safetensors"] and found["empty"]["card"] is None
    half = found["half"]
    assert (half["kind"], half["bytes"], half["full_bytes"], half["pulled"]) == ("unfinished", 60, 100, pulled)


def test_table(models: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert main(["models", str(models)]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["name", "kind", "size", "quality", "card", "last", "use", "from"]
    rows = {line.split()[0]: line for line in lines}
    assert "1.5 bits per byte" in rows["flash"] and "2026-11-29 12:34 (loaded)" in rows["flash"]
    assert "someone/flash@0123456789ab" in rows["flash"] and "it holds no *.safetensors" in rows["empty"]
    assert "none" in rows["empty"] and "0.0 MiB of 0.0 MiB" in rows["half"] and "unfinished" in rows["half"]


def test_nothing_is_loaded_without_a_server(models: Path, capsys: Capture) -> None:
    """A killed one leaves what it noted, and no lock."""
    wait = "import sys, pathlib, wavefold.pool.last_used as notes; notes.serve(pathlib.Path(sys.argv[1])); input()"
    other = shutil.copytree(models, models.with_name("other"))
    assert listed(other, capsys)["flash"]["state"] is None
    with subprocess.Popen([sys.executable, "-c", wait, str(other)], stdin=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while listed(other, capsys)["flash"]["state"] != "loaded":
            assert time.monotonic() < end
        process.kill()
        process.wait()
        assert listed(other, capsys)["flash"]["state"] is None


def test_damaged_files_are_faults(models: Path, capsys: Capture) -> None:
    (models / "flash" / RECORD).write_text('{"kind": "wavefold pull 1", "files": {"../x": {}}}')
    (models / "tiny.quality" / "card.json").write_text("{}")
    (models / ".wavefold" / "pool.json").write_text("[]")
    found = listed(models, capsys)
    assert "is no record of a pull" in found["flash"]["faults"][0] and found["flash"]["pulled"] is None
    assert "is no quality card" in found["tiny"]["faults"][0]
    assert found["flash"]["last_used"] is None
    assert main(["models", str(models)]) == 0 and "pool.json: cannot be read" in capsys.readouterr().err


def test_the_default_folder(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["models"]) == 0
    folder = tmp_path / "wavefold" / "models"
    assert f"no models in {folder}" in capsys.readouterr().out and not folder.exists()
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(b"1")
    assert main(["models"]) == 0 and "tiny" in capsys.readouterr().out
    assert main(["rm", "tiny", "--yes"]) == 0 and list(folder.iterdir()) == []
    assert main(["models", str(tmp_path / "nowhere")]) == 2 and "is no folder" in capsys.readouterr().err


def test_the_record_is_no_part_of_the_model(tmp_path: Path) -> None:
    """A copy does not take it along, and a fingerprint is the same."""
    before = fingerprint(DEFAULT_MODEL)
    for path in DEFAULT_MODEL.iterdir():
        (tmp_path / path.name).symlink_to(path)
    RECORDED.save(tmp_path)
    assert fingerprint(tmp_path) == before
    place = tmp_path / "plain"
    place.mkdir()
    RECORDED.save(place)
    (place / "tokenizer.json").write_text("{}")
    assert [path.name for path in side_files(place)] == ["tokenizer.json"]
