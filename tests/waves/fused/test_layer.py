"""What the fused kernel must not be given is refused before anything is written or launched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wavefold import quant
from wavefold.ops.tilelang.shape import Shape
from wavefold.ops.tilelang.weights import check_tensor, stack
from wavefold.waves.fused.layer import Rank
from wavefold.waves.fused.tables import Pairs
from wavefold.waves.schedule import Waves

SHAPE, WAVES = Shape(256, 128, 16, slots=2), Waves(4, 2, 2)


def fp4(out: int, into: int) -> tuple[Tensor, Tensor]:
    return quant.fp4_quant(torch.randn(out, into, generator=torch.Generator().manual_seed(0)))


def experts(number: int = 2) -> list[Any]:
    return [(fp4(128, 256), fp4(256, 128), fp4(128, 256))] * number


def prepare(rank: Rank, **other: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "x": torch.zeros(3, 256, dtype=torch.bfloat16), "ids": [torch.zeros(3, 2, dtype=torch.int64)] * 2,
        "routes": [torch.ones(3, 2)] * 2, "pointers": [rank.pointers()] * 2,
    }  # fmt: skip
    return rank.prepare(**{"weights": rank.weights(experts())} | given | other)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"x": torch.zeros(3, 256)}, "x is torch.float32"),
        ({"x": torch.zeros(3, 128, dtype=torch.bfloat16)}, "x has shape"),
        ({"x": torch.zeros(256, 3, dtype=torch.bfloat16).T}, "not contiguous"),
        ({"x": torch.zeros(3 * 256 + 1, dtype=torch.bfloat16)[1:].view(3, 256)}, "multiple of 16 bytes"),
        ({"ids": [torch.full((3, 2), 4)] * 2}, "experts 4 to 4; expected 0 to 3"),
        ({"ids": [torch.full((3, 2), -1)] * 2}, "experts -1"),
        ({"ids": [torch.zeros(3, 3, dtype=torch.int64)] * 2}, "up to 8 x 2"),
        ({"routes": [torch.ones(3, 1)] * 2}, "up to 8 x 2"),
        ({"ids": [torch.zeros(3, 2, dtype=torch.int64), torch.zeros(9, 2, dtype=torch.int64)],
          "routes": [torch.ones(3, 2), torch.ones(9, 2)]}, "rank 1"),
        ({"pointers": [[16, 16, 16, 16]]}, "pointers"),
        ({"pointers": [[16, 16, 16, 8]] * 2}, "multiples of 16"),
    ],
)  # fmt: skip
def test_arguments(other: dict[str, Any], words: str) -> None:
    rank = Rank(0, SHAPE, WAVES, 8)
    with pytest.raises(ValueError, match=words):
        prepare(rank, **other)
    assert rank.epoch == 0 and not rank.flags.any() and not rank.x.any()


def test_more_rows_than_there_is_room_for() -> None:
    rank = Rank(0, SHAPE, WAVES, 8, max_rows=16)
    with pytest.raises(ValueError, match=r"32 rows are not allowed; rank 0 has room for 16"):
        prepare(rank, ids=[torch.tensor([[0, 1]] * 3)] * 2)


def test_experts_that_a_rank_does_not_have() -> None:
    with pytest.raises(ValueError, match="3 experts are not allowed; rank 0 has 2"):
        Rank(0, SHAPE, WAVES, 8).weights(experts(3))
    with pytest.raises(ValueError, match="w1 has shape"):
        Rank(0, SHAPE, WAVES, 8).weights([(fp4(256, 128), fp4(256, 128), fp4(128, 256))] * 2)
    with pytest.raises(ValueError, match="rank 2 is not allowed"):
        Rank(2, SHAPE, WAVES, 8)
    with pytest.raises(ValueError, match="ids of 1 ranks"):
        Pairs(WAVES, [torch.zeros(1, 2, dtype=torch.int64)], 16)


@pytest.mark.parametrize(("apart", "allowed"), [(14, True), (15, False)])
def test_scales_too_far_apart(apart: int, allowed: bool) -> None:
    codes, scales = fp4(128, 128)
    scales = scales.view(torch.uint8).clone()
    scales[:] = 120
    scales[5, 2] = 120 - apart
    if allowed:
        stack([(codes, scales)])
    else:
        with pytest.raises(ValueError, match=r"2\^15 apart"):
            stack([(codes, scales)])
    codes = codes.view(torch.uint8).clone()
    codes[5, 32:48] = 0x80  # zeros have no use for their scale
    stack([(codes.view(torch.int8), scales)])


def test_weights_that_no_tile_fits() -> None:
    with pytest.raises(ValueError, match="multiples of 128"):
        stack([fp4(64, 128)])
    codes, scales = fp4(128, 128)
    with pytest.raises(ValueError, match="expected"):
        stack([(codes, scales[:, :2])])
    with pytest.raises(ValueError, match=r"has shape \(2,\); expected \(any, 3\)"):
        check_tensor("x", torch.zeros(2), torch.float32, (None, 3))
