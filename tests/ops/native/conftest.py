"""What the kernels' tests share: each instruction set in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wavefold import ops


@pytest.fixture(params=ops.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that the processor has, in use during the test."""
    with ops.using(isa=request.param):
        yield request.param
