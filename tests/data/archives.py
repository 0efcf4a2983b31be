"""Tiny source archives, and a folder that pip takes for an index."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n"
TRAP = "import pathlib\npathlib.Path({marker!r}).write_text('run')\nfrom setuptools import setup\nsetup()\n"
"""A setup.py that shows that it ran."""


def module(name: str, lines: int = 12) -> str:
    """A source that the rules keep, of words that no other one has."""
    body = "".join(f"    {name}_{i} = {name}_{i - 1} + {name}_step(seed)\n" for i in range(1, lines))
    head = f'"""Module {name}."""\n\n\ndef {name}(seed):\n    """Return {name} of seed."""\n    {name}_0 = seed\n'
    return f"{head}{body}    return {name}_{lines - 1}\n"


def write_tar(path: Path, members: Mapping[str, str | bytes | tarfile.TarInfo]) -> Path:
    """Writes a .tar.gz of files by their names; a TarInfo is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_package(
    index: Path, name: str, version: str, files: Mapping[str, str | bytes], licence: str = "MIT", marker: str = "marker"
) -> Path:
    """Puts a source archive with a setup.py into the index and returns its path."""
    top = f"{name}-{version}"
    members: dict[str, str | bytes] = {
        f"{top}/PKG-INFO": METADATA.format(name=name, version=version, licence=licence),
        f"{top}/setup.py": TRAP.format(marker=marker),
    }
    members |= {f"{top}/{path}": content for path, content in files.items()}
    path = write_tar(index / name / f"{top}.tar.gz", members)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (index / name / "index.html").write_text(f'<a href="{path.name}#sha256={digest}">{path.name}</a>')
    return path
