"""What travels along with a copy, and what does not: links that lead elsewhere, other folders, large files."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavefold.checkpoint import side_files
from wavefold.checkpoint.side_files import copy_side_files
from wavefold.system import Notice


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of a hub's cache: its files are links to blobs beside it."""
    blobs, folder = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True), folder.mkdir(parents=True)
    for name in ("tokenizer.json", "LICENSE"):
        (blobs / name).write_text(name)
        (folder / name).symlink_to(f"../../blobs/{name}")
    (folder / "encoding").mkdir()
    (folder / "encoding" / "encoding_dsv4.py").write_text("# text")
    (folder / "README.md").write_text("of that folder")
    (folder / "model.safetensors").write_text("weights")
    return folder


def copied(source: Path, folder: Path) -> set[str]:
    folder.mkdir()
    copy_side_files(source, folder)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_links_to_a_hubs_blobs_are_followed(source: Path, tmp_path: Path) -> None:
    assert copied(source, tmp_path / "copy") == {"tokenizer.json", "LICENSE", "encoding/encoding_dsv4.py"}
    assert (tmp_path / "copy" / "LICENSE").read_text() == "LICENSE"


def test_links_that_lead_elsewhere_are_named_and_not_copied(source: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    (source / "LICENSE.rsa").symlink_to(tmp_path / "private" / "key")
    (source / "encoding" / "key.py").symlink_to(tmp_path / "private" / "key")
    with pytest.warns(Notice, match="leads out of the checkpoint"):
        assert copied(source, tmp_path / "copy") == {"tokenizer.json", "LICENSE", "encoding/encoding_dsv4.py"}


def test_a_linked_encoding_folder_is_not_copied(source: Path, tmp_path: Path) -> None:
    (source / "encoding" / "encoding_dsv4.py").unlink(), (source / "encoding").rmdir()
    (source / "encoding").symlink_to("/")
    with pytest.warns(Notice, match="leads out of the checkpoint"):
        assert copied(source, tmp_path / "copy") == {"tokenizer.json", "LICENSE"}


def test_a_folder_of_something_else_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_files, "FEW", 3)
    for number in range(9):
        (source / "encoding" / f"{number}.py").write_text("")
    with pytest.raises(ValueError, match="encoding: holds more than 3 files"):
        copied(source, tmp_path / "copy")


def test_a_file_that_is_too_large_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_files, "LARGEST_BYTES", 5)
    with pytest.raises(ValueError, match=r"has \d+ bytes; expected at most 5"):
        copied(source, tmp_path / "copy")


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.warns(Notice, match="is gone"):
        assert copied(tmp_path / "nowhere", tmp_path / "copy") == set()
