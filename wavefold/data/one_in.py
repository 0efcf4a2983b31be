"""A fixed share of names or texts, by their hashes: the same everywhere, whatever else there is."""

from __future__ import annotations

import hashlib


def one_in(text: str, count: int) -> bool:
    """True for one text in `count`, by its hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % count == 0
