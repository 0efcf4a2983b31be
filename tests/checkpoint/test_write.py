"""A folder appears whole or not at all, and an older one stays until then."""

import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wavefold import ModelConfig, load, random_checkpoint, save
from wavefold.checkpoint import write


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def old(config: ModelConfig, tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that a failed save must leave as it is, alone in its folder."""
    folder = tmp_path / "model"
    random_checkpoint(config, folder, seed=1)
    before = content(folder)
    yield folder
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_full_disk(old: Path, checkpoint: Callable[[str], Path]) -> None:
    """A real failure to write: the process may not write files of more than 100 kB."""
    model = load(checkpoint("fp4"), "exact")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(model, old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_between_shards(
    old: Path, checkpoint: Callable[[str], Path], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(checkpoint("fp4"), "exact")
    write_file, calls = write.write_file, []

    def fails(path: Path, entries: dict[str, write.Entry]) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise error
        write_file(path, entries)

    monkeypatch.setattr(write, "write_file", fails)
    with pytest.raises(type(error)):
        save(model, old)
    assert len(calls) == 3


@pytest.mark.parametrize("which", [1, 2])
def test_failed_move(old: Path, config: ModelConfig, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving the old folder aside fails, or moving the new one into its place."""
    rename, calls = Path.rename, []

    def fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == which:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        random_checkpoint(config, old, seed=2)
    monkeypatch.undo()


def test_disk_too_small(old: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(ValueError, match=r"model: needs 0\.0 GB of disk, 0\.0 GB are free"):
        random_checkpoint(config, old, seed=2)


def test_replaces_a_checkpoint(config: ModelConfig, tmp_path: Path) -> None:
    random_checkpoint(config, tmp_path / "model", seed=1)
    (tmp_path / "model" / "note").touch()
    random_checkpoint(config, tmp_path / "model", seed=2)
    random_checkpoint(config, tmp_path / "other", seed=2)
    assert content(tmp_path / "model") == content(tmp_path / "other")


def test_makes_parents_and_takes_an_empty_folder(config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    random_checkpoint(config, tmp_path / "a", seed=1)
    random_checkpoint(config, tmp_path / "b" / "c", seed=1)
    assert content(tmp_path / "a") == content(tmp_path / "b" / "c")


def test_relative_path(config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    random_checkpoint(config, ".", seed=1)
    assert ModelConfig.from_file(tmp_path / "here") == config


def test_something_else_is_not_replaced(config: ModelConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"thesis: is no checkpoint .* so it is not replaced"):
        random_checkpoint(config, tmp_path / "thesis", seed=1)
    with pytest.raises(ValueError, match="file: is not a folder"):
        random_checkpoint(config, tmp_path / "file", seed=1)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == (tmp_path / "file").read_text() == "x"
