"""What the kernels' tests share: each instruction set in turn, and other numbers of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from wavefold import ops


@pytest.fixture(params=ops.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that the processor has, in use during the test."""
    with ops.using(isa=request.param):
        yield request.param


@pytest.fixture
def threads() -> Callable[[int], AbstractContextManager[None]]:
    """`with threads(2):` two of them, in torch and so in the kernels' runtime."""

    @contextmanager
    def using(count: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return using
