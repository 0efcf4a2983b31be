"""Files and folders appear whole; what a killed writer left is found, named and removed by the next one."""

import os
import signal
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from wavefold import atomic
from wavefold.system import Notice


def killed(write: Callable[[], object]) -> None:
    """Run `write` in a forked process that kills itself inside, as an out-of-memory killer would."""
    child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "a").write_text(text) and None


def half(folder: Path) -> None:
    (folder / "a").write_bytes(b"x" * 1_500_000)
    die()


def told(write: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write()
    assert all(warning.category is Notice for warning in caught)
    return [str(warning.message) for warning in caught]


def test_a_killed_writers_folder_is_removed_and_named(tmp_path):
    target = tmp_path / "model"
    killed(lambda: atomic.write_folder(target, half))
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith(".model.")
    (note,) = told(lambda: atomic.write_folder(target, fill("new")))
    assert left[0] in note and "removed 1.5 MB that an interrupted write had left" in note
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_killed_writers_file_is_removed_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", die)
    killed(lambda: atomic.write_text(tmp_path / "report.json", "{}"))
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert "report.json" in told(lambda: atomic.write_text(tmp_path / "report.json", "{}"))[0]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_that_was_moved_aside_gets_its_name_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    atomic.write_folder(target, fill("old"))
    rename, calls = Path.rename, []

    def second_kills(self: Path, to: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            die()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", second_kills)
    killed(lambda: atomic.write_folder(target, fill("new")))
    monkeypatch.undo()
    assert not target.exists()
    notes = told(lambda: atomic.sweep(target))
    assert "it is back" in " ".join(notes) and (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    target = tmp_path / "model"

    def outer(folder: Path) -> None:
        (folder / "a").write_text("outer")
        assert told(lambda: atomic.sweep(target)) == []
        assert folder.is_dir()

    atomic.write_folder(target, outer)
    assert (target / "a").read_text() == "outer"


def test_names_that_only_look_alike_stay(tmp_path):
    for name in (".model.notes", ".model.backup01.txt", ".model2.abcdefgh", ".mode.abcdefgh"):
        (tmp_path / name).mkdir()
    assert told(lambda: atomic.write_folder(tmp_path / "model", fill("new"))) == []
    assert len(list(tmp_path.iterdir())) == 5


def test_all_is_private(tmp_path):
    def deep(folder: Path) -> None:
        (folder / "encoding").mkdir(mode=0o755)
        (folder / "encoding" / "a.py").write_text("")

    atomic.write_folder(tmp_path / "model", deep)
    atomic.write_text(tmp_path / "file", "x")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"model": 0o700, "encoding": 0o700, "a.py": 0o600, "file": 0o600}


def test_a_failed_write_leaves_the_older_file(tmp_path):
    atomic.write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        atomic.write_text(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_lock_is_held_by_one_living_process(tmp_path):
    refused = pytest.raises(ValueError, match=f"is held by process {os.getpid()}")
    with atomic.holding(tmp_path / ".lock"), refused, atomic.holding(tmp_path / ".lock"):
        pass
    killed(lambda: atomic.holding(tmp_path / ".lock").__enter__() or die())
    with atomic.holding(tmp_path / ".lock"):
        pass
