"""Sizes of memory as people write them: 24G, 1.5GiB, 800M, or a number of bytes. K, M, G and T are powers of 1024."""

from __future__ import annotations

import re

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def bytes_of(size: str | int, name: str = "memory") -> int:
    """Returns the bytes of a size. Raises ValueError, which begins with its `name`, for a text that is none.

    And for less than one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(size), re.IGNORECASE)
    num_bytes = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if num_bytes < 1:
        raise ValueError(f"{name} = {size!r} is not allowed; expected a size such as 24G, 1.5GiB, 800M or 2000000000")
    return num_bytes


def gib(num_bytes: float) -> str:
    """Returns bytes as text in GiB."""
    return f"{num_bytes / UNITS['G']:,.2f} GiB"


def size_text(num_bytes: float) -> str:
    """Returns bytes as text, in GiB, or in MiB where that is less than a tenth of one."""
    return gib(num_bytes) if num_bytes >= UNITS["G"] / 10 else f"{num_bytes / UNITS['M']:,.1f} MiB"
