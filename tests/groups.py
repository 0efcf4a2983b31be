"""A control group of memory for a test, skipped where none can be made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from wavefold.bench.memory_group import MemoryGroup


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group, which is removed at the end."""
    if (group := MemoryGroup.new()) is None:
        pytest.skip("no control group of memory can be made here (needs root)")
    try:
        yield group
    finally:
        group.remove()
