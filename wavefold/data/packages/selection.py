"""The documents of an archive: what the rules keep, in the order of their names.

    archive --archive.members--> paths --rules.by_path--> files --rules.by_text--> documents --names in the list--> kept

Whatever is left out is counted under the first rule that applies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from wavefold.data.packages.archive import is_metadata, members
from wavefold.data.packages.licence import stated_licence
from wavefold.data.packages.listing import Package
from wavefold.data.packages.rules import by_path, by_text


@dataclass(frozen=True)
class Selection:
    """What was found in an archive. `documents`: (name, text) by name. `left_out`: rule -> (files, bytes)."""

    licence: str
    documents: tuple[tuple[str, str], ...]
    left_out: dict[str, tuple[int, int]]


def select(package: Package, path: Path) -> Selection:
    """Returns the documents of the archive at `path`, without those that the list names as unparsed or duplicates.

    A document's name is the package's folder and the path in it. Raises ValueError, naming the package, for an archive
    that cannot be read, and for a licence that is not allowed.
    """
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    texts: dict[str, str] = {}
    metadata: str | None = None
    named = {name: rule for rule, names in (("parse", package.unparsed), ("duplicate", package.duplicates))
             for name in names}  # fmt: skip
    for inside, size, content in members(path, lambda inside: is_metadata(inside) or by_path(inside) is None):
        if is_metadata(inside):
            metadata = (content or b"").decode("utf-8", errors="replace")
            continue
        rule, text = by_path(inside), ""
        if rule is None:
            rule, text = by_text(inside, content)
        rule = rule or named.get(inside)
        if rule is None:
            texts[inside] = text
        elif rule != "other kinds":
            files[rule] += 1
            sizes[rule] += size
    try:
        if metadata is None:
            raise ValueError("holds no PKG-INFO or METADATA")
        licence = stated_licence(metadata)
    except ValueError as error:
        raise ValueError(f"{package.name} {package.version}: {error}") from None
    documents = tuple((f"{package.folder}/{inside}", texts[inside]) for inside in sorted(texts))
    return Selection(licence, documents, {rule: (files[rule], sizes[rule]) for rule in sorted(files)})
