"""Errors of the library in the words of the command line: settings become flags."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

NAMES = (
    "threads|device|batch_invariant|kernels|activations|huge_pages|memory|width|shard|cache_dir|disk_cache|"
    "snapshot_every"
)


@contextlib.contextmanager
def as_flags(*more: str) -> Iterator[None]:
    """A block in which an error that begins with a setting and its value begins with the flag instead.

    `more`: settings of this command alone.
    """
    try:
        yield
    except ValueError as error:
        found = re.match(rf"^({'|'.join((NAMES, *more))}) = (?:True )?", str(error))
        if not found:
            raise
        raise ValueError(f"--{found[1].replace('_', '-')} {str(error)[found.end() :]}") from None
