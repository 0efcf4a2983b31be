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
    assert len(left) == 1 and left[0].startswith(".model.wavefold-")
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
    for name in (".model.original", ".model.wavefold-notes", ".model2.wavefold-abcdefgh", ".mode.wavefold-abcdefgh"):
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


def test_a_link_stays_a_link_to_the_replaced_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    atomic.write_folder(tmp_path / "disk" / "real", fill("old"))
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    assert told(lambda: atomic.write_folder(tmp_path / "link", fill("new"))) == []
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "real" / "a").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_a_folder_that_another_program_has_locked_is_written_all_the_same(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(atomic, "TURN_S", 0.1)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    atomic.write_folder(tmp_path / "model", fill("new"))
    atomic.write_text(tmp_path / "file", "new")
    os.close(handle)
    assert (tmp_path / "model" / "a").read_text() == (tmp_path / "file").read_text() == "new"


def test_without_locks_files_are_written_and_runs_are_refused(tmp_path, monkeypatch):
    def none(handle: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", none)
    atomic.write_folder(tmp_path / "model", fill("new"))
    atomic.write_text(tmp_path / "file", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
    with (
        pytest.raises(ValueError, match=r"cannot be locked \(No locks available\)"),
        atomic.holding(tmp_path / ".lock"),
    ):
        pass


def test_what_is_no_file_or_folder_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / ".model.wavefold-aaaaaaaa")
    assert told(lambda: atomic.write_folder(tmp_path / "model", fill("new"))) == []


def test_many_writers_of_one_name(tmp_path):
    """Each of a few processes writes the folder again and again: none fails, and one of them is there."""
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(40):
                    atomic.sweep(tmp_path / "model")
                    atomic.write_folder(tmp_path / "model", fill(str(number)))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert (tmp_path / "model" / "a").read_text() in "012" and len(list(tmp_path.iterdir())) == 1
