"""Cards are made by the CPU kernels, which are batch-invariant."""

from collections.abc import Iterator

import pytest

from wavefold import ops
from wavefold.ops import native


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    if not native.available():
        pytest.skip("the CPU kernels are not installed")
    with ops.using(backend="auto"):
        yield
