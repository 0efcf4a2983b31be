"""The documents of all packages in one file, so that a run reads neither archives nor rules.

    packages.jsonl      {"name": "attrs-26.1.0/src/attr/_make.py", "text": "...", "held_out": false}, one a line

Reading it compares the digests of its documents with the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from wavefold.atomic import write_file
from wavefold.data.packages.fetch import check_archive
from wavefold.data.packages.listing import Listing, digest_of
from wavefold.data.packages.selection import select

Documents = list[tuple[str, str]]
"""(name, text) pairs."""


def build(
    listing: Listing, archives: Path, path: Path, tell: Callable[[str], object] = lambda line: None
) -> tuple[Documents, Documents]:
    """Writes the documents of the list's archives to `path` and returns those to learn from and the held-out ones.

    Raises ValueError, naming a package, if its archive, its licence or its documents are not what the list says.
    """
    parts: tuple[Documents, Documents] = ([], [])
    for package in listing.packages:
        selection = select(package, check_archive(package, archives))
        if selection.licence != package.licence:
            raise ValueError(f"{package.name}: licence = {selection.licence!r}; the list says {package.licence!r}")
        if digest_of(selection.documents) != package.digest:
            raise ValueError(
                f"{package.name} {package.version}: its documents are not the listed ones: the rules are not those "
                "that the list was made with (make it anew: wavefold data lock)"
            )
        parts[package.held_out].extend(selection.documents)
        tell(f"{package.name}: {len(selection.documents)} documents")
    check_digests(listing, *parts)
    write(path, *parts)
    return parts


def write(path: Path, train: Documents, held_out: Documents) -> None:
    """Writes documents a line each, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def lines() -> Iterator[bytes]:
        for flag, part in ((False, train), (True, held_out)):
            for name, text in part:
                yield json.dumps({"name": name, "text": text, "held_out": flag}).encode() + b"\n"

    write_file(path, lambda file: file.writelines(lines()))


def read(listing: Listing, path: Path) -> tuple[Documents, Documents]:
    """Returns the documents to learn from and the held-out ones.

    Raises ValueError if the file is not there or holds other documents than the list's.
    """
    if not path.is_file():
        total = sum(package.archive_bytes for package in listing.packages)
        raise ValueError(
            f"{path}: is not there; make it with: wavefold data fetch (downloads {len(listing.packages)} archives, "
            f"{total / 1e6:.0f} MB, from pip's index)"
        )
    parts: tuple[Documents, Documents] = ([], [])
    try:
        with path.open("rb") as file:
            for line in file:
                value = json.loads(line)
                parts[bool(value["held_out"])].append((value["name"], value["text"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({type(error).__name__}); make it anew: wavefold data fetch") from None
    check_digests(listing, *parts)
    return parts


def check_digests(listing: Listing, train: Documents, held_out: Documents) -> None:
    """Raises ValueError if the documents are not those of the list."""
    if (digest_of(train), digest_of(held_out)) != (listing.train, listing.held_out):
        raise ValueError(
            f"{len(train)} + {len(held_out)} documents are not those of the list (digest {digest_of(train)[:16]}, "
            f"expected {listing.train[:16]}); make them anew: wavefold data fetch"
        )
