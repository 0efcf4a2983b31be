"""The kernels' generated CUDA source, run on an emulated GPU: the released arithmetic, over ranks and waves.

What this cannot show: speed, memory order between blocks on a real chip, the tensor cores' own rounding of sums.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.tilelang.emulate import Emulated, bytes_of, has_headers
from wavefold import quant
from wavefold.ops import Arithmetic
from wavefold.ops.reference.expert import expert
from wavefold.ops.tilelang.shape import Shape
from wavefold.ops.tilelang.weights import stack
from wavefold.waves.fused.layer import Rank
from wavefold.waves.schedule import Waves

pytest.importorskip("tilelang", reason="TileLang is not installed: pip install 'wavefold[gpu]'")
if not has_headers():
    pytest.skip("CUDA's headers are not here", allow_module_level=True)

from wavefold.ops.tilelang import kernels
from wavefold.ops.tilelang.build import generate

HIDDEN, INNER, EXPERTS, SLOTS, LIMIT = 256, 128, 8, 3, 0.5
RELEASED = Arithmetic("released", torch.bfloat16)
Weight = tuple[Tensor, Tensor]


def fp4(out: int, into: int, seed: int) -> Weight:
    """Weights whose scales vary within a row's 128 values, zeros and negative zeros among them."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.exp2(torch.randint(-8, 0, (out, into // 32), generator=g).float()).repeat_interleave(32, 1)
    w = torch.randn(out, into, generator=g) * scale
    w[0, :32], w[1, :32] = 0.0, -0.0
    return quant.fp4_quant(w)


@functools.cache
def experts() -> list[tuple[Weight, Weight, Weight]]:
    return [(fp4(INNER, HIDDEN, 3 * e), fp4(HIDDEN, INNER, 3 * e + 1), fp4(INNER, HIDDEN, 3 * e + 2))
            for e in range(EXPERTS)]  # fmt: skip


def of(x: Tensor, number: int, routes: Tensor) -> Tensor:
    return expert(x, *(quant.Weight.of(*pair) for pair in experts()[number]), routes, LIMIT, RELEASED)


def built(kernel: Any, folder: Path) -> Emulated:
    return Emulated(generate(kernel).source, folder)


def is_same(y: Tensor, expected: Tensor) -> bool:
    """To the bit, but for one value in a thousand that float32's order of sums rounds to the next bfloat16.

    The order of the expected sums is that of torch's library for the processor at hand.
    """
    differs = (y != expected).sum()
    return bool(differs * 1000 <= y.numel()) and torch.allclose(y.float(), expected.float(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_grouped_products_are_the_released_arithmetic(rows: int, tmp_path: Path) -> None:
    shape = Shape(HIDDEN, INNER, rows, SLOTS, LIMIT)
    g = torch.Generator().manual_seed(rows)
    x = (torch.randn(24, HIDDEN, generator=g) * torch.rand(24, 1, generator=g).exp2()).bfloat16()
    codes, scales = quant.act_quant(x)
    place = torch.randint(0, 24, (2 * rows,), generator=g).int()
    route = torch.rand(2 * rows, generator=g)
    tiles = torch.tensor([[0, 1], [rows, 0]], dtype=torch.int32)
    given: dict[str, Any] = {"x": bytes_of(codes), "x_scale": bytes_of(scales), "place": place, "route": route,
                             "tiles": tiles, "n": 24, "p": 2 * rows, "e": 2, "t": 2}  # fmt: skip
    for name, parts in zip(("w1", "w2", "w3"), zip(*experts()[:2], strict=True), strict=True):
        given[name], given[f"{name}_scale"] = stack(parts)
    act, act_scale = torch.zeros(2 * rows, INNER, dtype=torch.uint8), torch.zeros(2 * rows, 1, dtype=torch.uint8)
    given |= {"act": act, "act_scale": act_scale, "y": torch.zeros(2 * rows, HIDDEN, dtype=torch.bfloat16)}
    built(kernels.linear_1(shape), tmp_path).run((INNER // 128, 2), [given])
    built(kernels.linear_2(shape), tmp_path).run((HIDDEN // 128, 2), [given])
    parts = place.long().split(rows), route[:, None].split(rows)
    expected = torch.cat([of(x[some], number, routes) for some, routes, number in zip(*parts, (1, 0), strict=True)])
    assert is_same(given["y"], expected)


TILES_OF_16 = Shape(HIDDEN, INNER, 16, SLOTS, LIMIT)


@functools.cache
def fused_kernel(ranks: int, folder: Path) -> Emulated:
    return built(kernels.fused(TILES_OF_16, ranks, 1, 3), folder)


class Ranks:
    """All ranks of a schedule, in this process. Kept while a kernel runs: peers reach its buffers by address alone."""

    def __init__(self, schedule: Waves):
        self.ranks = [Rank(rank, TILES_OF_16, schedule, 32) for rank in range(schedule.num_ranks)]
        self.weights = [one.weights([experts()[e] for e in schedule.experts_of(one.rank)]) for one in self.ranks]
        self.pointers = [one.pointers() for one in self.ranks]

    def given(self, x: list[Tensor], ids: list[Tensor], routes: list[Tensor]) -> list[dict[str, Any]]:
        """What each rank's kernel is given."""
        parts = zip(self.ranks, x, self.weights, strict=True)
        return [one.prepare(some, ids, routes, weights, self.pointers) for one, some, weights in parts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fused")


def routing(sizes: Sequence[int], kind: str, seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(n, HIDDEN, generator=g).bfloat16() for n in sizes]
    order = [torch.rand(n, EXPERTS, generator=g) for n in sizes]
    for some in order:
        if kind == "hot":  # everybody's first choice
            some[:, 5] = 2
        if kind == "empty":  # nobody's
            some[:, [0, 3, 7]] = -1
    return x, [some.topk(SLOTS).indices for some in order], [torch.rand(n, SLOTS, generator=g) for n in sizes]


def expected(x: Tensor, ids: Tensor, routes: Tensor) -> Tensor:
    """Each pair's result in bfloat16, summed in the order of slots in float32."""
    total = torch.zeros(x.shape)
    for slot in range(SLOTS):
        made = [of(x[i : i + 1], int(ids[i, slot]), routes[i : i + 1, slot : slot + 1]) for i in range(len(x))]
        total += torch.cat([*made, x[:0]]).float()
    return total.bfloat16()


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [((21,), "random"), ((20, 7), "random"), ((5, 3, 0, 6), "random"), *(pytest.param(*case, marks=pytest.mark.slow)
     for case in [((20, 7), "hot"), ((18, 3), "empty"), ((17, 0), "random")])],
)  # fmt: skip
def test_the_fused_kernel_over_ranks_and_waves(sizes: tuple[int, ...], kind: str, folder: Path) -> None:
    ranks = len(sizes)
    kernel = fused_kernel(ranks, folder)
    seed = 0
    most = EXPERTS // ranks
    for waves in {1, 2, most}:
        schedule = Waves(EXPERTS, ranks, waves, min(waves, 2))
        mine = Ranks(schedule)
        for run in range(2):  # the second one with what the first left behind, another routing
            x, ids, routes = routing(sizes if run else sizes[::-1], kind, run)
            given = mine.given(x, ids, routes)
            kernel.run((3, 1), given, seed := seed + 1)
            for rank in range(ranks):
                assert is_same(given[rank]["out"], expected(x[rank], ids[rank], routes[rank])), (waves, run, rank)


def test_many_orders_of_blocks(folder: Path) -> None:
    kernel, sizes = fused_kernel(2, folder), (9, 14)
    mine = Ranks(Waves(EXPERTS, 2, 4, 1))
    for seed in range(12):
        x, ids, routes = routing(sizes, "random", random.Random(seed).randrange(1000))
        given = mine.given(x, ids, routes)
        kernel.run((3, 1), given, seed)
        for rank in range(2):
            assert is_same(given[rank]["out"], expected(x[rank], ids[rank], routes[rank])), seed


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r"while \(wf_load_acquire[^;]*;", ";"),  # nobody waits
        (r"tl::cp_async_wait<\d>\(\);", ""),  # copies are not waited for
        (r"below = wf_largest_scale", "below = 1 + wf_largest_scale"),  # a decoding that is wrong by two
        (r"byte_perm\(low, high, word & 0x7777u\)", "byte_perm(low, high, word >> 4 & 0x7777u)"),  # nibbles swapped
    ],
)
def test_the_emulation_sees_faults(pattern: str, new: str, tmp_path: Path) -> None:
    source = generate(kernels.fused(TILES_OF_16, 2, 1, 3)).source
    faulty, count = re.subn(pattern, new, source)
    assert count
    x, ids, routes = routing((9, 14), "random", 0)
    mine = Ranks(Waves(EXPERTS, 2, 2, 1))
    given = mine.given(x, ids, routes)
    Emulated(faulty, tmp_path).run((3, 1), given, 1)
    assert not all(is_same(given[r]["out"], expected(x[r], ids[r], routes[r])) for r in range(2))


def test_blocks_that_wait_for_ever_are_found(folder: Path) -> None:
    x, ids, routes = routing((9, 14), "random", 0)
    mine = Ranks(Waves(EXPERTS, 2, 2, 1))
    given = mine.given(x, ids, routes)
    with pytest.raises(RuntimeError, match="for ever"):
        fused_kernel(2, folder).run((3, 1), given[:1])  # the other rank never comes
