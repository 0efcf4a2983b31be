"""The list of packages (`corpora/packages.json`): archives by name, version and SHA-256, and what is kept of each.

A person writes {"version": ..., "held_out": true} for a package; `lock.py` fills in the rest. A digest is of kept
documents in their order: of a name and a text each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wavefold.atomic import write_text

PACKAGES_LIST = Path(__file__).parents[1] / "corpora" / "packages.json"


@dataclass(frozen=True)
class Package:
    """An archive and the documents that are kept of it. All but the first three fields are empty before `lock`."""

    name: str
    version: str
    held_out: bool = False
    file: str | None = None
    sha256: str = ""
    archive_bytes: int = 0
    licence: str = ""
    documents: int = 0
    text_bytes: int = 0
    """Bytes of the kept documents as UTF-8."""
    digest: str = ""
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Rule -> (files, bytes). Files of other kinds are not counted."""
    unparsed: tuple[str, ...] = ()
    """Paths of Python files that do not parse."""
    duplicates: tuple[str, ...] = ()
    """Paths of near-duplicates of earlier documents."""

    @property
    def folder(self) -> str:
        """First part of the names of its documents."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True)
class Listing:
    """Packages by name in order, the Python whose parser decided, and digests of the whole.

    `train`, `held_out`: digests of the documents. `shards`: vocabulary size -> hashes that `tokens.py` compares.
    """

    packages: tuple[Package, ...]
    python: str = ""
    train: str = ""
    held_out: str = ""
    shards: dict[str, dict[str, str]] = field(default_factory=dict)


def read_listing(path: Path = PACKAGES_LIST) -> Listing:
    """Reads a list. Raises ValueError if it cannot be read."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        packages = tuple(_package(name, entry) for name, entry in sorted(value["packages"].items()))
        rest = {key: value[key] for key in ("python", "train", "held_out", "shards") if key in value}
        return Listing(packages, **rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no list of packages ({type(error).__name__}: {error})") from None


def write_listing(path: Path, listing: Listing) -> None:
    """Writes a list, a package a line, in one step."""
    lines = []
    for package in listing.packages:
        entry = {key: value for key, value in asdict(package).items() if value and key != "name"}
        lines.append(f"{json.dumps(package.name)}: {json.dumps(entry)}")
    head = {"python": listing.python, "train": listing.train, "held_out": listing.held_out, "shards": listing.shards}
    start = json.dumps(head, indent=0).removesuffix("\n}")
    write_text(path, f'{start},\n"packages": {{\n' + ",\n".join(lines) + "\n}\n}\n")


def digest_of(documents: Iterable[tuple[str, str]]) -> str:
    """Returns the SHA-256 of (name, text) pairs in order."""
    digest = hashlib.sha256()
    for name, text in documents:
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _package(name: str, entry: dict[str, Any]) -> Package:
    left_out = {rule: (int(files), int(num_bytes)) for rule, (files, num_bytes) in entry.get("left_out", {}).items()}
    names = {key: tuple(entry.get(key, ())) for key in ("unparsed", "duplicates")}
    return Package(name, **{**entry, "left_out": left_out, **names})
