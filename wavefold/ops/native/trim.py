"""glibc's `malloc_trim`: memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def trim_of_libc() -> Callable[[], object] | None:
    """Returns what gives free memory back to the system; None where the C library has no such function."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return lambda: trim(0)
