"""The data card (`docs/data.md`): what a model learned from, made of the list."""

from __future__ import annotations

from collections import defaultdict

from wavefold.data.packages.duplicates import SAME, WORDS, found_share
from wavefold.data.packages.listing import Listing, Package
from wavefold.data.packages.rules import RULES
from wavefold.data.packages.tokens import EVALUATED, KEPT_TEXT, STDLIB_TIMES

HEAD = """\
# Data card

Made by `wavefold data card` from `wavefold/data/corpora/packages.json`; do not edit it here.

`wavefold train --data stdlib+packages` reads the Python standard library (`corpora/stdlib.json`, PSF-2.0) and the
packages below: Python sources and documentation (`.rst`, `.md`, `.txt` below `docs/`) of source archives from the
package index, pinned by version and SHA-256. `wavefold data fetch` downloads {archives:.0f} MB by pip's settings. It
compares every hash, the licence in each archive's metadata and the documents with the list. Nothing of an archive is
run or unpacked to disk.

| | packages | documents | bytes |
| --- | --- | --- | --- |
{totals}

Whole packages are held out: {held}. Their near-duplicates are left out, if MinHash finds them.

## Packages

Each with its version and the bytes that were kept; held-out ones are in bold.
"""

RULES_HEAD = """\
## Left out

In this order; a file is counted under the first rule that applies (`wavefold/data/packages/rules.py`). Files that are
neither Python nor documentation are not counted.

| rule | files | bytes | what it is |
| --- | --- | --- | --- |
"""

TAIL = """
Near-duplicates: two documents that share {same:.0%} of their runs of {words} words, by the exact Jaccard index; MinHash
finds {found:.0%} at that share. The standard library, not compared within, comes first, then held-out packages,
others by name; the first stays.

## The same bytes anywhere

| what | SHA-256 |
| --- | --- |
{digests}

`wavefold data shards --vocab 4096 --out DIR` makes a tokenizer, token shards of all documents (`DIR/4096/text`, those
of the standard library {times} times) and shards for the last part of a run (`DIR/4096/last`: chats of docstrings,
exercises, one document in {kept}), and compares their hashes with the list. In both, one held-out document in
{evaluated} is there for a run to evaluate. Documents are the same under any Python from 3.10; chats need the parser of
Python {python}.
"""


def card(listing: Listing) -> str:
    """Returns the data card as Markdown."""
    packages = listing.packages
    held_out = [package for package in packages if package.held_out]
    learned = [package for package in packages if not package.held_out]
    totals = "\n".join(
        f"| {title} | {len(part)} | {sum(p.documents for p in part):,} | {sum(p.text_bytes for p in part):,} |"
        for title, part in (("to learn from", learned), ("held out", held_out))
    )
    head = HEAD.format(
        archives=sum(p.archive_bytes for p in packages) / 1e6, totals=totals, held=", ".join(p.name for p in held_out)
    )
    digests = [("documents to learn from", listing.train), ("held-out documents", listing.held_out)]
    for size, hashes in listing.shards.items():
        digests += [(f"index of `{size}/{name}`", hashes[name]) for name in ("text", "last")]
    tail = TAIL.format(same=SAME, words=WORDS, found=found_share(SAME), python=listing.python,
                       times=STDLIB_TIMES, kept=KEPT_TEXT, evaluated=EVALUATED,
                       digests="\n".join(f"| {name} | `{digest}` |" for name, digest in digests))  # fmt: skip
    return head + _by_licence(packages) + "\n" + RULES_HEAD + _rules(packages) + tail


def _by_licence(packages: tuple[Package, ...]) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for package in packages:
        name = f"**{package.name}**" if package.held_out else package.name
        groups[package.licence].append(f"{name} {package.version} ({package.text_bytes:,})")
    return "".join(f"\n- {licence}: {', '.join(groups[licence])}" for licence in sorted(groups)) + "\n"


def _rules(packages: tuple[Package, ...]) -> str:
    lines = []
    for rule, meaning in RULES.items():
        counts = [package.left_out[rule] for package in packages if rule in package.left_out]
        if counts:
            files, num_bytes = map(sum, zip(*counts, strict=True))
            lines.append(f"| {rule} | {files:,} | {num_bytes:,} | {meaning} |\n")
    return "".join(lines)
