"""The model that ships on the CPU kernels, in a small pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wavefold import LLM, ops


@pytest.fixture(autouse=True, scope="session")
def kernels() -> Iterator[None]:
    """Steps of about a millisecond."""
    with ops.using(backend="auto"):
        yield


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(width=4, cache_tokens=4096, threads=1) as llm:
        yield llm
