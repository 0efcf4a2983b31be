"""What a pulled model's folder says of its origin: `pulled.json`, written before the first byte is fetched."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from wavefold.atomic import write_json
from wavefold.pool.hub import COMMIT, RemoteFile

RECORD = "pulled.json"
KIND = "wavefold pull 1"
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Record:
    """`revision`: as it was asked for, a branch say; `commit`: what it was when the pull began. `time`: ISO 8601, UTC.

    `files`: by their names in the folder.
    """

    repo: str
    revision: str
    commit: str
    include: tuple[str, ...]
    time: str
    files: dict[str, RemoteFile]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files.values())

    @property
    def origin(self) -> str:
        return f"{self.repo}@{self.commit[:12]}"

    def save(self, folder: Path) -> None:
        files = {name: asdict(file) for name, file in self.files.items()}
        write_json(folder / RECORD, {"kind": KIND, **asdict(self), "files": files})


def load_record(folder: Path) -> Record | None:
    """Returns the record in a folder, or None without one. Raises ValueError for a file that is none."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"has {path.stat().st_size:,} bytes")
        values = json.loads(path.read_bytes())
        if values.pop("kind") != KIND:
            raise ValueError("is of another kind")
        files = {name: RemoteFile(**file) for name, file in values.pop("files").items()}
        record = Record(include=tuple(values.pop("include")), files=files, **values)
        if not COMMIT.fullmatch(record.commit) or any("/" in name or name.startswith(".") for name in files):
            raise ValueError("its commit or the names of its files are none")
        if any(not 0 <= file.num_bytes < 1 << 60 for file in files.values()):
            raise ValueError("sizes of files are none")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: is no record of a pull ({error}); remove it, or the model with `wavefold rm`"
        ) from None
    return record
