"""What lies in a folder of the prefix cache, for the command line: by space, checked whole, or removed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wavefold.cache.disk_index import Segment, new_records, read_header
from wavefold.cache.ledger import LEDGER, SUFFIX, Ledger, counts_of
from wavefold.cache.segment import BLOCK, STATE, Newer, NotOurs, is_right
from wavefold.system.reading import PIECE, DirectFile


@dataclass
class SpaceFiles:
    """The segments of one space. `space`: its digest in hexadecimal; `used_at`: seconds since 1970."""

    space: str
    about: str
    paths: list[Path] = field(default_factory=list)
    num_blocks: int = 0
    num_states: int = 0
    num_bytes: int = 0
    used_at: float = 0.0


@dataclass
class Folder:
    """All segments of a folder. `cap`: of whoever opened it last; 0 where the ledger does not say."""

    folder: Path
    cap: int
    num_bytes: int = 0
    spaces: dict[str, SpaceFiles] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    newer: list[Path] = field(default_factory=list)

    @property
    def num_segments(self) -> int:
        return sum(len(space.paths) for space in self.spaces.values()) + len(self.damaged) + len(self.newer)


def look(folder: Path) -> Folder:
    """Reads headers and footers, and changes nothing. Raises ValueError for a folder that is not there."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that --disk-cache has made, or --cache-dir DIR")
    found = Folder(folder, counts_of(folder / LEDGER)[0])
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            header, status = read_header(path), path.stat()
            with path.open("rb", buffering=0) as file:
                num_records = sum(1 for _ in new_records(Segment(path, header), file.fileno()))
        except (Newer, NotOurs) as error:
            (found.newer if isinstance(error, Newer) else found.damaged).append(path)
            found.num_bytes += path.lstat().st_size
            continue
        except OSError:  # gone meanwhile, or no file
            continue
        name = header.space.hex()
        space = found.spaces.setdefault(name, SpaceFiles(name, header.about))
        space.paths.append(path)
        space.num_blocks += num_records if header.kind == BLOCK else 0
        space.num_states += num_records if header.kind == STATE else 0
        space.num_bytes += status.st_size
        space.used_at = max(space.used_at, status.st_mtime)
        found.num_bytes += status.st_size
    return found


def verify(folder: Folder, report: Callable[[int, int], None] = lambda done, of: None) -> tuple[int, list[str]]:
    """Reads all records whole; returns the number of right ones, and "file: record number" of each other one.

    `report` is called with the bytes done, and of how many. A record that goes meanwhile is neither.
    """
    num_right, wrong, done = 0, [str(path) for path in folder.damaged], 0
    for space in folder.spaces.values():
        for path in space.paths:
            try:
                rights = _check(Segment(path, read_header(path)))
            except (OSError, Newer, NotOurs):
                continue
            num_right += sum(rights.values())
            wrong += [f"{path}: record {number}" for number, right in rights.items() if not right]
            done += os.stat(path).st_size if path.exists() else 0
            report(done, folder.num_bytes)
    return num_right, wrong


def remove(folder: Folder, spaces: list[str] | None) -> tuple[int, int]:
    """Removes the segments of spaces, or all with None; returns the bytes that went and the segments still in use."""
    chosen = folder.spaces.values() if spaces is None else [folder.spaces[name] for name in spaces]
    paths = [path for space in chosen for path in space.paths]
    if spaces is None:
        paths += folder.damaged + folder.newer
    ledger, num_bytes, num_used = Ledger(folder.folder), 0, 0
    try:
        with ledger.turn() as turn:
            for path in paths:
                size = path.lstat().st_size if os.path.lexists(path) else 0
                if turn.remove(path.name):
                    num_bytes += size
                else:
                    num_used += os.path.lexists(path)
    finally:
        ledger.close()
    return num_bytes, num_used


def _check(segment: Segment) -> dict[int, bool]:
    """True or False for each slot with a footer, by number."""
    header = segment.header
    if not header.num_slots(segment.path.stat().st_size):  # no memory for what a header alone says
        return {}
    memory = memoryview(mmap.mmap(-1, header.slot_bytes))
    file, rights = DirectFile(segment.path), {}
    footers = segment.path.open("rb", buffering=0)  # O_DIRECT has no reads of 160 bytes
    try:
        for number, key, _ in new_records(segment, footers.fileno()):
            for begin in range(0, header.slot_bytes, PIECE):
                end = min(begin + PIECE, header.slot_bytes)
                file.read([memory[begin:end]], header.offset(number) + begin, end - begin)
            rights[number] = is_right(header, number, key, [memory])
    finally:
        footers.close()
        file.close()
    return rights
