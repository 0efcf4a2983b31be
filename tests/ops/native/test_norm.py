"""RMS norm on the CPU kernels: within a rounding of the reference, and one row's bytes whatever the others."""

from __future__ import annotations

import pytest
import torch

from tests.checks import RELEASED, assert_single_steps
from wavefold.ops import native
from wavefold.ops.native.norm import rms_norm
from wavefold.ops.reference import norm as reference

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


@pytest.mark.parametrize("columns", [1, 7, 16, 100, 512, 4096])
def test_as_the_reference(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = (torch.randn(50, columns, generator=generator) * torch.rand(50, 1, generator=generator) * 100).bfloat16()
    weight = torch.randn(columns, generator=generator).bfloat16()
    got = rms_norm(x, weight, 1e-6)
    assert_single_steps(f"{columns} columns", got, reference.rms_norm(x, weight, 1e-6, RELEASED), 0.01)
    assert torch.equal(torch.cat([rms_norm(row[None], weight, 1e-6) for row in x]), got)


def test_what_does_not_fit() -> None:
    x = torch.zeros(2, 8, dtype=torch.bfloat16)
    for weight in (torch.zeros(7, dtype=torch.bfloat16), torch.zeros(8)):
        with pytest.raises(ValueError, match=r"expected bfloat16 \[..., n\] and \[n\]"):
            rms_norm(x, weight, 1e-6)
