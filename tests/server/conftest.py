"""The model that ships on the CPU kernels, in a small pool.

The server's tests need the packages of its extra, and the clients that they stand for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from wavefold import LLM, ops

NEEDS = ("pydantic", "deepseek_recipe", "starlette", "uvicorn", "prometheus_client", "openai", "anthropic")
if any(importlib.util.find_spec(name) is None for name in NEEDS):
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.server.pooled import alone, folder, server  # noqa: F401, fixtures of a pool


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    """Steps of about a millisecond."""
    with ops.using(backend="auto"):
        yield


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(width=4, cache_tokens=4096, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A running server whose engine says what it is told (`saying.Saying`)."""
    from tests.server.saying import saying

    with saying() as engine:
        yield engine


@pytest.fixture(scope="module")
def gpt(engine: Any) -> Iterator[Any]:
    with engine.openai() as client:
        yield client


@pytest.fixture(scope="module")
def claude(engine: Any) -> Iterator[Any]:
    with engine.anthropic() as client:
        yield client
