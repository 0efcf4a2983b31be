"""Why a file could not be used, for a message that names it."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """What an error says, without the path and the number that an OSError puts beside it."""
    return str(getattr(error, "strerror", None) or error)
