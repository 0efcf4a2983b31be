"""Kernels of real shapes become cubins for sm_90a: tensor-core instructions, asynchronous copies, nothing spilled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wavefold.ops.tilelang.shape import Shape

pytest.importorskip("tilelang", reason="TileLang is not installed: pip install 'wavefold[gpu]'")

from wavefold.ops.tilelang import kernels
from wavefold.ops.tilelang.build import compile_cubin, generate, has_compiler

FLASH, PRO = (4096, 2048), (7168, 3072)
MOST_REGISTERS = {"linear_1": 168, "linear_2": 128, "fused": 200}
MOST_SHARED = 227 * 1024
"""Bytes that a block can have on a Hopper chip."""


def kernel(name: str, shape: Shape) -> Any:
    return kernels.fused(shape, 8, 8, 132) if name == "fused" else getattr(kernels, name)(shape)


@pytest.mark.skipif(not has_compiler(), reason="nvcc is not here")
@pytest.mark.parametrize(
    ("name", "widths", "rows"),
    [("linear_1", FLASH, 64), ("linear_2", FLASH, 64), ("fused", FLASH, 16), *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [("fused", FLASH, 64), ("fused", PRO, 64), ("fused", PRO, 16)]
    )],
)  # fmt: skip
def test_cubins(name: str, widths: tuple[int, int], rows: int, tmp_path: Path) -> None:
    resources = compile_cubin(generate(kernel(name, Shape(*widths, rows))), tmp_path, name)
    assert (tmp_path / f"{name}.cubin").stat().st_size > 1000
    assert resources.wgmma >= 32 and resources.async_copies >= 8
    assert resources.spilled == 0 and resources.registers <= MOST_REGISTERS[name]
    assert resources.shared <= MOST_SHARED


@pytest.mark.parametrize(
    ("given", "words"),
    [({"hidden": 100}, "multiple of 128"), ({"inner": 64}, "multiple of 128"), ({"rows": 48}, "16, 32 or 64"),
     ({"slots": 0}, "1 to 16"), ({"stages": 9}, "1 to 6")],
)  # fmt: skip
def test_shapes_that_no_kernel_has(given: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Shape(**{"hidden": 256, "inner": 128} | given)


def test_blocks_for_the_link_leave_some_for_the_rest() -> None:
    with pytest.raises(ValueError, match="1 to 3"):
        kernels.fused(Shape(256, 128), 2, 4, 4)
