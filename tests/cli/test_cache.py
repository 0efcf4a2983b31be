"""`wavefold cache`: what lies there is listed, checked and removed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from tests.cache.disk_chains import BLOCK_BYTES, DIGEST, STATE_BYTES, chain, put, segments, size_of, space_of
from wavefold.cache.disk import DiskCache
from wavefold.cache.ledger import Ledger
from wavefold.cache.segment import PAGE
from wavefold.cli.main import main

Capture = pytest.CaptureFixture[str]
OTHER = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with DiskCache(tmp_path / "cache", 64 << 20) as cache:
        put(space_of(cache), chain("a", 20), states=(19,))
        other = cache.space(OTHER, BLOCK_BYTES, STATE_BYTES, "another [b]model\x1b[2J")
        put(other, chain("b", 3, OTHER), parent=OTHER)
    return tmp_path / "cache"


def call(folder: Path, *words: str) -> int:
    return main(["cache", *words, "--cache-dir", str(folder)])


def test_ls(folder: Path, capsys: Capture) -> None:
    assert call(folder, "ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "\x1b" not in "".join(lines)
    words = {line.split()[0]: line.split() for line in lines[1:]}
    assert words[DIGEST.hex()[:12]][1:3] == ["20", "1"] and words[DIGEST.hex()[:12]][-2:] == ["a", "test"]
    assert words[OTHER.hex()[:12]][1:3] == ["3", "0"] and "[b]model" in lines[1] + lines[2]


def test_stats(folder: Path, capsys: Capture) -> None:
    assert call(folder, "stats") == 0
    out = capsys.readouterr().out
    assert "0.00 GiB of 0.06 GiB" in out and "23 of 128 tokens" in out and "segments  4" in out


def test_verify(folder: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert call(folder, "verify") == 0
    assert capsys.readouterr().out == "24 records are as they were written, 0 damaged\n"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "nothing changes"
    path = next(path for path in segments(folder) if path.name.startswith(OTHER[:8].hex()))
    data = bytearray(path.read_bytes())
    data[PAGE + 5] ^= 1
    path.write_bytes(data)
    (folder / "noise.segment").write_bytes(bytes(100))
    assert call(folder, "verify") == 1
    out = capsys.readouterr().out
    assert f"damaged: {path}: record 0\n" in out and f"damaged: {folder / 'noise.segment'}\n" in out
    assert "23 records are as they were written, 2 damaged" in out


def test_rm(folder: Path, capsys: Capture) -> None:
    assert call(folder, "rm", OTHER.hex()[:14]) == 0
    assert len(segments(folder)) == 3
    with segments(folder)[0].open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert call(folder, "rm", "--all") == 0
        assert "1 segments are in use and stay" in capsys.readouterr().out and len(segments(folder)) == 1
    assert call(folder, "rm", "--all") == 0 and not segments(folder)
    assert size_of(folder) < 100 and stat.S_IMODE((folder / "ledger").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rm"], "expected names that `wavefold cache ls` prints, or --all"),
        (["rm", DIGEST.hex(), "--all"], "are not allowed together; give either names or --all"),
        (["rm", DIGEST.hex()[:11]], "names 0 spaces"),
        (["rm", "0" * 64], "names 0 spaces"),
    ],
)
def test_what_is_refused(folder: Path, capsys: Capture, words: list[str], says: str) -> None:
    before = size_of(folder)
    assert call(folder, *words) == 2 and says in capsys.readouterr().err
    assert size_of(folder) == before


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["cache", "ls"]) == 2
    assert f"{tmp_path}/wavefold/prefix: no such folder" in capsys.readouterr().err


def test_a_file_in_place_of_a_folder(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("mine")
    assert call(tmp_path / "file", "ls") == 2
    assert f"--cache-dir {tmp_path / 'file'}: is a file; expected a folder" in capsys.readouterr().err


def test_a_folder_that_is_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """As for a user who may not write: this one may be root."""

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Ledger, "_locked", refused)
    before = size_of(folder)
    assert call(folder, "rm", "--all") == 2
    assert f"{folder}: nothing can be removed (Read-only file system)" in capsys.readouterr().err
    assert size_of(folder) == before
