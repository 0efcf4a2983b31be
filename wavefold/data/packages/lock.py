"""Makes the list from names and versions: hashes, licences, what is kept, near-duplicates. For whoever changes it.

Documents come in this order, and the first of two that are nearly the same stays: the standard library (all of it
stays), packages held out, packages to learn from, each by name. So nothing that is learned nearly equals what is held
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from wavefold.data.file_hash import file_hash
from wavefold.data.packages.documents import Documents, write
from wavefold.data.packages.duplicates import near_duplicates
from wavefold.data.packages.fetch import download, measured, missing
from wavefold.data.packages.listing import Listing, Package, digest_of
from wavefold.data.packages.selection import select
from wavefold.data.python_source import parses


def lock(
    listing: Listing,
    archives: Path,
    path: Path,
    others: Sequence[tuple[str, str]],
    tell: Callable[[str], object] = lambda line: None,
) -> Listing:
    """Returns the list with everything filled in, and writes the documents to `path`. `shards` stay empty.

    `others`: (name, text) of documents that stay whatever they equal. An archive that is listed keeps its hash; one
    that is not is downloaded and measured. Raises ValueError for what `fetch` and `select` raise.
    """
    archives.mkdir(parents=True, exist_ok=True)
    came = download(missing(listing.packages, archives), archives, tell)
    packages: list[Package] = []
    texts: dict[str, tuple[tuple[str, str], ...]] = {}
    for package in listing.packages:
        file = package.file or came.get(package.name)
        if file is None or not (archives / file).is_file():
            raise ValueError(f"{package.name} {package.version}: its archive cannot be had")
        if package.sha256 and file_hash(archives / file) != package.sha256:
            raise ValueError(f"{archives / file}: its SHA-256 is not the listed one, {package.sha256}")
        found = measured(replace(package, unparsed=(), duplicates=()), archives, file)
        documents = select(found, archives / file).documents
        broken = tuple(name.partition("/")[2] for name, text in documents if name.endswith(".py") and not parses(text))
        packages.append(replace(found, unparsed=broken))
        texts[package.name] = tuple(pair for pair in documents if pair[0].partition("/")[2] not in set(broken))
        tell(f"{package.name}: {len(documents)} files kept, {len(broken)} do not parse")
    order = [pair for package in sorted(packages, key=lambda p: not p.held_out) for pair in texts[package.name]]
    same = near_duplicates([*others, *order], len(others))
    tell(f"{len(same)} near-duplicates of {len(order)} documents")
    parts: tuple[Documents, Documents] = ([], [])
    for number, package in enumerate(packages):
        names = tuple(name.partition("/")[2] for name, _ in texts[package.name] if name in same)
        packages[number] = summed(replace(package, duplicates=names), archives, parts[package.held_out])
    write(path, *parts)
    return Listing(tuple(packages), "{}.{}".format(*sys.version_info), digest_of(parts[0]), digest_of(parts[1]))


def summed(package: Package, archives: Path, part: Documents) -> Package:
    """Returns a package with licence, counts and digest of its documents, which are appended to `part`."""
    assert package.file is not None
    selection = select(package, archives / package.file)
    part.extend(selection.documents)
    return replace(
        package,
        licence=selection.licence,
        documents=len(selection.documents),
        text_bytes=sum(len(text.encode()) for _, text in selection.documents),
        digest=digest_of(selection.documents),
        left_out=selection.left_out,
    )
