"""A file system that is soon full, for a test; skipped where none can be mounted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """A file system of so many kilobytes in `folder`; what is yielded makes it large."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True) and None
    finally:
        subprocess.run(["umount", folder], check=True)
