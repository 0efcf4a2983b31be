"""Files and folders that appear whole or not at all, readable by their owner alone.

    NAME                           for readers: the older one, until the new one takes its place
    .NAME.wavefold-xxxxxxxx        the new one while it is written, locked by its writer
    .NAME.wavefold-xxxxxxxx.old    the older folder while the new one takes its place

A killed writer loses its lock. Whoever writes the same NAME next finds the remains, names them in a Notice and removes
them. An older folder that had been moved aside gets its name back. Where NAME is a link, all of this happens beside the
folder that it leads to. Locks are `flock`; where there are none, or another program holds the folder around NAME, files
are written all the same and nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wavefold.system import Notice

PRIVATE = 0o600
MARK = "wavefold-"
TURN_S = 10.0
"""How long a writer waits for others in the same folder."""

_filling: set[Path] = set()
"""Folders that this process writes, and so has locked."""


def write_text(path: Path, text: str) -> None:
    """Give the file `path` this content, in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Give the file `path` this content, in one step."""
    write_file(path, lambda file: file.write(content))


def write_file(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Give the file `path` the content that `fill(a new file beside it)` writes, in one step."""
    path = _real(path)
    with _turn(path.parent) as alone:
        if alone:
            _sweep(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.{MARK}", dir=path.parent)  # mode 0600
        _lock(handle)
    with os.fdopen(handle, "wb") as file:
        try:
            fill(file)
            file.flush()
            os.fsync(handle)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, values: object) -> None:
    """Give the file `path` these values as indented JSON, in one step."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` by `fill(a new folder beside it)`, private, in one step; replaces an older one."""
    path = _real(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path.parent) as alone:
        if alone:
            _sweep(path)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.{MARK}", dir=path.parent))  # mode 0700
        handle = os.open(fresh, os.O_RDONLY)
        _lock(handle)
    _filling.add(fresh)
    try:
        fill(fresh)
        put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        _filling.discard(fresh)
        os.close(handle)


def put_in_place(fresh: Path, path: Path) -> None:
    """Give the complete folder `fresh` the name `path` beside it, flushed and private; replaces an older one."""
    for entry in fresh.rglob("*"):
        if entry.is_dir():
            entry.chmod(0o700)
            continue
        entry.chmod(PRIVATE)
        with entry.open("rb") as handle:
            os.fsync(handle.fileno())
    with _turn(path.parent):
        if path.exists():
            _swap(fresh, path)
        else:
            fresh.rename(path)


def sweep(path: Path) -> None:
    """Remove the remains of interrupted writers of `path`, and put a folder that was moved aside back in its place."""
    path = _real(path)
    if path.parent.is_dir():
        with _turn(path.parent) as alone:
            if alone:
                _sweep(path)


def _sweep(path: Path) -> None:
    pattern = re.compile(re.escape(f".{path.name}.{MARK}") + r"[a-z0-9_]{8}(\.old)?")
    for entry in sorted(path.parent.iterdir()):
        found = pattern.fullmatch(entry.name)
        if found is None or not _is_abandoned(entry):
            continue
        if found[1] and not path.exists():
            entry.rename(path)
            warnings.warn(
                f"{path}: an interrupted write had moved it to {entry.name}; it is back", Notice, stacklevel=4
            )
            continue
        size = sum(part.stat().st_size for part in (entry, *entry.rglob("*")) if part.is_file())
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        warnings.warn(f"{entry}: removed {size / 1e6:,.1f} MB that an interrupted write had left", Notice, stacklevel=4)


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is made where it is missing, while the block runs.

    A process that dies lets go of it. Raises ValueError that names the process where another one has it.
    """
    handle = _locked(path)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """The lock file `path`, open and locked. Its holder may remove it: then another one is made."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        try:
            free = try_lock(handle)
            owner = "" if free else os.pread(handle, 64, 0).decode(errors="replace").strip()
            with contextlib.suppress(FileNotFoundError):
                if free and os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except OSError as error:
            os.close(handle)
            raise ValueError(
                f"{path}: cannot be locked ({error.strerror}); expected a folder on a file system that has locks"
            ) from None
        os.close(handle)
        if not free:
            raise ValueError(f"{path}: is held by process {owner or '(unknown)'}")


def try_lock(handle: int) -> bool:
    """Take the lock of an open file or folder, which this process holds until it is closed. False if another has it.

    Raises OSError where the file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _real(path: Path) -> Path:
    """The place of `path`, absolute, behind links."""
    return Path(os.path.realpath(path))


def _lock(handle: int) -> None:
    """Hold the lock of a file or folder that is being written, where the file system has locks."""
    with contextlib.suppress(OSError):
        try_lock(handle)


def _is_abandoned(entry: Path) -> bool:
    """True for a file or folder whose lock no living process holds."""
    try:
        handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        mode = os.fstat(handle).st_mode
        return (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[bool]:
    """A block that one process at a time runs, of those that write into `folder`.

    So nobody sweeps a file before its writer has locked it. False where the lock cannot be had, or not within `TURN_S`.
    """
    if folder in _filling:  # nobody else writes there
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        ends = time.monotonic() + TURN_S
        alone = False
        with contextlib.suppress(OSError):
            while not (alone := try_lock(handle)) and time.monotonic() < ends:
                time.sleep(0.01)
        yield alone
    finally:
        os.close(handle)


def _swap(fresh: Path, path: Path) -> None:
    """Put `fresh` in the place of `path`, and remove the older folder."""
    old = fresh.with_name(f".{path.name}.{MARK}{os.urandom(4).hex()}.old")
    path.rename(old)
    try:
        fresh.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
