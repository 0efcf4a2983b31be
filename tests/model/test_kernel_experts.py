"""A model whose routed experts run in the fused kernel, emulated: what the released arithmetic gives without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.tilelang.emulate import Emulated, has_headers
from tests.small import SMALL
from wavefold.checkpoint import load
from wavefold.checkpoint.random import random_checkpoint
from wavefold.experts import ExpertCompute, LocalExperts
from wavefold.experts.gpu import KernelExperts, kernel_experts
from wavefold.model.official import official_tensors
from wavefold.ops.reference.expert import expert
from wavefold.ops.tilelang.shape import Shape

CONFIG = SMALL.replace(hidden_size=128, moe_intermediate_size=128)


class BySlot(ExpertCompute):
    """What the kernel means: each pair's result in bfloat16, summed in the order of slots, in float32."""

    def routed(self, layer: int, h: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
        total = torch.zeros(h.shape)
        with self.store.acquire(layer, range(CONFIG.n_routed_experts)) as view:
            for slot in range(ids.shape[1]):
                for number in range(len(view)):
                    rows = ids[:, slot] == number
                    routes = weights[rows, slot, None].float()
                    total[rows] += expert(h[rows], *view[number], routes, self.limit, self.arithmetic).float()
        return total.bfloat16()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernel_experts")
    random_checkpoint(CONFIG, folder / "model", 0)
    return folder


@pytest.mark.skipif(not has_headers(), reason="CUDA's headers are not here")
def test_a_prompt_and_a_step(folder: Path) -> None:
    pytest.importorskip("tilelang", reason="TileLang is not installed: pip install 'wavefold[gpu]'")
    from wavefold.ops.tilelang.build import generate
    from wavefold.ops.tilelang.kernels import fused

    launched: list[int] = []

    def launch(shape: Shape):  # type: ignore[no-untyped-def]
        kernel = Emulated(generate(fused(shape, 1, 1, 3)).source, folder)

        def run(given: Mapping[str, Tensor | int]) -> None:
            launched.append(shape.rows)
            kernel.run((3, 1), [given])

        return run

    plain, ours = (load(folder / "model", "released") for _ in range(2))
    before = {name: tensor.clone() for name, tensor in official_tensors(ours)}
    ours.experts = KernelExperts(ours.experts, CONFIG, ours.device, launch)
    for name, tensor in official_tensors(ours):
        assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8)), name
    tokens = torch.randint(0, 64, (70,), generator=torch.Generator().manual_seed(0))
    plain.experts = BySlot(plain.experts.store, plain.arithmetic, CONFIG.swiglu_limit)
    for some in (tokens, tokens[:1]):
        assert torch.equal(ours(some[None]), plain(some[None]))
    assert set(launched) == {16, 64} and len(launched) == 2 * CONFIG.num_hidden_layers


def test_models_that_the_kernels_cannot_run(folder: Path) -> None:
    model = load(folder / "model", "exact")
    with pytest.raises(ValueError, match="released"):
        KernelExperts(model.experts, CONFIG, model.device, lambda shape: pytest.fail("launched"))
    with pytest.raises(ValueError, match="need a Hopper GPU; the model is on cpu"):
        model = load(folder / "model", "released")
        kernel_experts(model.experts, CONFIG, model.device)
    assert isinstance(model.experts, LocalExperts)
