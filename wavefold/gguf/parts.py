"""A model's GGUF files: one, or the parts that llama.cpp splits large ones into.

NAME-00001-of-00003.gguf   all keys and the first tensors; split.no 0, split.count 3, split.tensors.count
NAME-00002-of-00003.gguf   split.no 1 ...
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from wavefold.gguf.header import Header, Place, read_header

ARCHITECTURE = "deepseek4"
SUFFIX = ".gguf"
PART_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MOST_PARTS = 9999


class Parts(NamedTuple):
    """The keys of a model's first file, and the tensors of all its files."""

    path: Path
    values: dict[str, Any]
    tensors: dict[str, Place]
    paths: tuple[Path, ...]
    """The files, in order."""


def is_gguf(path: str | Path) -> bool:
    """True for a path that names a GGUF file, whether it exists or not."""
    return Path(path).suffix == SUFFIX


def open_parts(path: Path) -> Parts:
    """Returns the model in the file `path` and in the parts that follow it. The last files that were read are kept.

    Raises ValueError, naming the file and the key or tensor, for a file that cannot be read, another architecture, a
    part that is missing or is not the one that its name says, and for the name of a later part.
    """
    if (kept := _kept.get(path)) is not None:
        parts, stamps = kept
        with contextlib.suppress(OSError):
            if [_stamp(file) for file in parts.paths] == stamps:
                return parts
    parts = _opened(path)
    while len(_kept) >= MOST_KEPT:
        _kept.pop(next(iter(_kept)), None)
    _kept[path] = parts, [_stamp(file) for file in parts.paths]
    return parts


_kept: dict[Path, tuple[Parts, list[tuple[int, int, int]]]] = {}
MOST_KEPT = 2


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _opened(path: Path) -> Parts:
    first = read_header(path)
    architecture = first.values.get("general.architecture")
    number, count = _part(first)
    if number:
        name = PART_NAME.fullmatch(path.name)
        other = f"{name[1]}-00001-of-{name[3]}.gguf" if name else "the one whose split.no is 0"
        raise ValueError(f"{path}: is part {number + 1} of a model; give its first part: {other}")
    if architecture != ARCHITECTURE:
        raise ValueError(f"{path}: general.architecture = {architecture!r} is not allowed; expected {ARCHITECTURE!r}")
    headers = [first, *(_following(path, number, count) for number in range(1, count))]
    tensors: dict[str, Place] = {}
    for header in headers:
        if twice := tensors.keys() & header.tensors.keys():
            raise ValueError(f"{header.path}: tensor {min(twice)!r} is in an earlier part too; expected once")
        tensors |= header.tensors
    announced = first.values.get("split.tensors.count", len(tensors))
    if count > 1 and announced != len(tensors):
        raise ValueError(f"{path}: split.tensors.count = {announced!r}, and its {count} parts hold {len(tensors):,}")
    return Parts(path, first.values, tensors, tuple(header.path for header in headers))


def _part(header: Header) -> tuple[int, int]:
    """Returns a file's number among its model's, from 0, and their number. Raises ValueError for keys out of range."""
    number, count = header.values.get("split.no", 0), header.values.get("split.count", 1)
    count = count or 1  # a file that was never split may say 0
    if type(number) is not int or type(count) is not int or not 0 <= number < count <= MOST_PARTS:
        raise ValueError(
            f"{header.path}: split.no = {number!r} of split.count = {count!r} is not allowed; expected numbers from 0, "
            f"of {MOST_PARTS:,} parts at most"
        )
    return number, count


def _following(first: Path, number: int, count: int) -> Header:
    name = PART_NAME.fullmatch(first.name)
    if name is None or int(name[3]) != count or int(name[2]) != 1:
        raise ValueError(
            f"{first}: is the first of {count} parts; expected a name that ends in -00001-of-{count:05d}.gguf, as the "
            "others' do"
        )
    path = first.with_name(f"{name[1]}-{number + 1:05d}-of-{count:05d}.gguf")
    if not path.is_file():
        raise ValueError(f"{path}: is missing; it is part {number + 1} of {count} of {first.name}")
    header = read_header(path)
    if _part(header) != (number, count):
        found, of = _part(header)
        raise ValueError(f"{path}: holds part {found + 1} of {of}, expected part {number + 1} of {count}")
    return header
