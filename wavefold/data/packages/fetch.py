"""Brings the archives of a list into a folder and compares each with its SHA-256.

An archive that is there already is not fetched, however it came. So an index that pip reaches and `pip_client` does not
is no obstacle: put the files into the folder by other means.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wavefold.data.file_hash import file_hash
from wavefold.data.packages.listing import Package

CLIENT = Path(__file__).with_name("pip_client.py")


def missing(packages: Sequence[Package], folder: Path) -> list[Package]:
    """Returns the packages whose archive is not in the folder."""
    return [package for package in packages if package.file is None or not (folder / package.file).is_file()]


def fetch(packages: Sequence[Package], folder: Path, tell: Callable[[str], object] = lambda line: None) -> None:
    """Downloads what is missing, by pip's settings. `tell` is called with a line for each archive.

    Raises ValueError, naming the archives, for those that cannot be had or that are not the listed ones. An archive
    with another hash is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = missing(packages, folder)
    came = download(wanted, folder, tell)
    absent = [package for package in wanted if package.name not in came]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(wanted)} archives cannot be had ({absent[0].name} {absent[0].version} first); put "
            f"them into {folder}, or try again"
        )
    for package in packages:
        check_archive(package, folder)


def download(
    packages: Sequence[Package], folder: Path, tell: Callable[[str], object] = lambda line: None
) -> dict[str, str]:
    """Returns name -> file name of the archives that pip's indexes had. Nothing is compared with a hash."""
    if not packages:
        return {}
    request = {"folder": str(folder), "archives": [{"name": p.name, "version": p.version, "file": p.file}
                                                   for p in packages]}  # fmt: skip
    came: dict[str, str] = {}
    with tempfile.TemporaryFile() as asked:  # a client that ends without reading leaves no pipe to break
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        with subprocess.Popen(
            [sys.executable, str(CLIENT)], stdin=asked, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        ) as client:
            assert client.stdout is not None
            for text in client.stdout:
                line = json.loads(text)
                tell(f"{line['name']}: {line.get('file') or line['fault']}")
                if "file" in line:
                    came[line["name"]] = line["file"]
    if client.returncode:
        raise ValueError(
            f"pip of {sys.executable} cannot be asked (exit code {client.returncode}); it is needed as pip 22 to 26. "
            f"Or put the archives into {folder} by other means"
        )
    return came


def check_archive(package: Package, folder: Path) -> Path:
    """Returns the path of an archive with the listed hash. Raises ValueError for another one, which is removed."""
    assert package.file is not None
    path = folder / package.file
    if file_hash(path) != package.sha256:
        path.unlink()
        raise ValueError(f"{path}: its SHA-256 is not the listed one, so it was removed; expected {package.sha256}")
    return path


def measured(package: Package, folder: Path, file: str) -> Package:
    """Returns the package with name, hash and size of an archive that is there."""
    path = folder / file
    return replace(package, file=file, sha256=file_hash(path), archive_bytes=path.stat().st_size)
