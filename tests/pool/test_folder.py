"""The models that a folder offers, by their names; what cannot be used says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wavefold.pool.folder import entries


def adapter(folder: Path, base: object) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"12345")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    official = tmp_path / "flash"
    official.mkdir()
    (official / "config.json").write_text("{}")
    for number in (1, 2):
        (official / f"model-{number}.safetensors").write_bytes(b"1234")
    (tmp_path / "tiny.gguf").write_bytes(b"123")
    for number in (1, 2):
        (tmp_path / f"big-0000{number}-of-00002.gguf").write_bytes(b"12")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "anything.gguf").write_bytes(b"1")
    (tmp_path / "inside" / "config.json").write_text("{}")  # as many repositories of GGUF files have one
    adapter(tmp_path / "cron", "someone/flash")
    return tmp_path


def test_models_of_all_kinds_have_names_and_sizes(models: Path) -> None:
    found = entries(models)
    assert {name: (entry.kind, entry.num_bytes, entry.base) for name, entry in found.items()} == {
        "flash": ("official", 8, None), "tiny": ("gguf", 3, None), "big": ("gguf", 4, None),
        "inside": ("gguf", 1, None), "flash:cron": ("adapter", 5, "flash"),
    }  # fmt: skip
    assert not any(entry.fault for entry in found.values())
    assert found["big"].path.name == "big-00001-of-00002.gguf" and found["inside"].path.name == "anything.gguf"


def test_what_is_no_model_is_not_offered(models: Path) -> None:
    names = set(entries(models))
    (models / "notes").mkdir()
    (models / "README.md").write_text("x")
    (models / ".hidden").mkdir()
    (models / ".hidden" / "config.json").write_text("{}")
    (models / "a name with blanks.gguf").write_bytes(b"1")
    assert set(entries(models)) == names


def test_what_cannot_be_used_says_why(models: Path) -> None:
    (models / "empty").mkdir()
    (models / "empty" / "config.json").write_text("{}")
    (models / "tiny").mkdir()
    (models / "tiny" / "config.json").write_text("{}")
    (models / "inside" / "other.gguf").write_bytes(b"1")
    adapter(models / "orphan", "gone")
    adapter(models / "odd", 3)
    faults = {name: entry.fault for name, entry in entries(models).items() if entry.fault}
    assert faults == {
        "empty": "it holds no *.safetensors",
        "tiny": "tiny and tiny.gguf have one name; rename one",
        "inside": "it holds 2 GGUF models; expected one in a folder",
        "gone:orphan": f"its base 'gone' is not in {models}",
        "?:odd": "base_model_name_or_path = '3' is no name",
    }


def test_a_file_is_no_folder_of_models(models: Path) -> None:
    with pytest.raises(ValueError, match="is no folder; expected one with models in it"):
        entries(models / "tiny.gguf")
