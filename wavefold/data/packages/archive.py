"""Members of a source archive or a wheel, read one after another into memory. Nothing is unpacked, nothing runs.

A member's path is the one below the archive's top folder: `attrs-26.1.0/src/attr/_make.py` is `src/attr/_make.py`.
Links and special files are skipped. Names that lead outside, two members of one name, and sizes beyond the limits are
errors.
"""

from __future__ import annotations

import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_MEMBERS = 100_000
MAX_ARCHIVE_BYTES = 2 << 30
"""Most bytes of all members of an archive together, unpacked."""
MAX_MEMBER_BYTES = 4 << 20
"""Most bytes of a member that is read. A larger one is passed on with its size alone."""
METADATA = ("PKG-INFO", "METADATA")


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, bytes | None]]:
    """Yields (path, bytes, content) of the files in an archive, in its order.

    The content is None for a path that is not `wanted` and for a file beyond `MAX_MEMBER_BYTES`. Raises ValueError for
    an archive of another kind, a damaged one, and one that breaks a limit.
    """
    seen: set[str] = set()
    total = 0
    try:
        for name, size, read in (_tar if path.name.endswith(".tar.gz") else _zip)(path):
            inside = _checked(path, name)
            total += size
            if inside in seen:
                raise ValueError(f"{path.name}: holds {name!r} twice")
            seen.add(inside)
            if len(seen) > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
                raise ValueError(
                    f"{path.name}: has more than {MAX_MEMBERS} files or {MAX_ARCHIVE_BYTES} bytes unpacked"
                )
            below = inside if path.suffix == ".whl" else inside.partition("/")[2]
            if below:
                yield below, size, read() if size <= MAX_MEMBER_BYTES and wanted(below) else None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path.name}: is damaged or no archive ({type(error).__name__}: {error})") from None


def is_metadata(path: str) -> bool:
    """True for the file that states an archive's name, version and licence."""
    folder, _, name = path.rpartition("/")
    return path == "PKG-INFO" or (name == "METADATA" and folder.endswith(".dist-info") and "/" not in folder)


def _tar(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, member.size, file.read


def _zip(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and (info.external_attr >> 28) in (0, 8):  # the Unix kind: none given, or a file
                yield info.filename, info.file_size, lambda info=info: archive.read(info)  # type: ignore[misc]


def _checked(path: Path, name: str) -> str:
    inside = posixpath.normpath(name)
    if name.startswith("/") or inside.startswith(("../", "/")) or inside == ".." or "\\" in name or "\0" in name:
        raise ValueError(f"{path.name}: {name!r} leads outside of the archive")
    return inside
