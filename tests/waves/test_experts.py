"""Experts over logical ranks: bits that depend neither on ranks nor waves nor rings, held to plain autograd."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wavefold.waves.exchange import Settings
from wavefold.waves.experts import Pass
from wavefold.waves.schedule import Waves
from wavefold.waves.transport import local_transports, run_together

DIM, INNER, EXPERTS, SLOTS = 16, 12, 8, 3


def expert(number: int, rows: Tensor, weights: Sequence[Tensor], routes: Tensor) -> Tensor:
    w1, w2, w3 = (weight.to(rows.dtype) for weight in weights)
    return ((F.silu(rows @ w1.T) * (rows @ w3.T)) * routes.to(rows.dtype)) @ w2.T


def inputs(num_tokens: int, seed: int, kind: str = "random") -> tuple[Tensor, Tensor, Tensor, dict[int, list[Tensor]]]:
    g = torch.Generator().manual_seed(seed)
    h, weights = torch.randn(num_tokens, DIM, generator=g), torch.rand(num_tokens, SLOTS, generator=g)
    order = torch.rand(num_tokens, EXPERTS, generator=g)
    if kind == "hot":  # everybody's first choice is the same expert
        order[:, 5] = 2
    if kind == "empty":  # three experts are nobody's
        order[:, [0, 3, 7]] = -1
    ids = order.topk(SLOTS).indices
    shapes = (INNER, DIM), (DIM, INNER), (INNER, DIM)
    experts = {e: [torch.randn(*shape, generator=g) / 4 for shape in shapes] for e in range(EXPERTS)}
    return h, weights, ids, experts


def over_ranks(
    settings: Settings, cuts: Sequence[int], given: tuple[Tensor, Tensor, Tensor, dict[int, list[Tensor]]],
    grad: Tensor, dtype: torch.dtype = torch.float32, seed: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Output and gradients of tokens that are cut over the ranks, whole again."""
    h, weights, ids, experts = given
    transports = local_transports(settings.waves.num_ranks)
    passes = [Pass(transport, settings, expert) for transport in transports]
    parts = zip(h.to(dtype).split(list(cuts)), weights.split(list(cuts)), ids.split(list(cuts)), strict=True)
    mine = [{e: experts[e] for e in one.local} for one in passes]
    out = run_together(
        [one.forward(*part, some, learns=True) for one, part, some in zip(passes, parts, mine, strict=True)], seed
    )
    back = run_together(
        [one.backward(part) for one, part in zip(passes, grad.to(dtype).split(list(cuts)), strict=True)], seed
    )
    assert not any(posts for posts in transports[0]._posts.values())  # nothing was sent that nobody took
    of_experts = {e: grads for _, _, some in back for e, grads in some.items()}
    flat = [
        torch.cat([g.flatten() for g in of_experts[e]]) if e in of_experts else torch.zeros(0) for e in range(EXPERTS)
    ]
    return torch.cat(out), torch.cat([b[0] for b in back]), torch.cat([b[1] for b in back]), *flat


def plain(given: tuple[Tensor, Tensor, Tensor, dict[int, list[Tensor]]], grad: Tensor) -> tuple[Tensor, ...]:
    """The same by autograd in float64, expert by expert over all tokens."""
    h, weights, ids, experts = given
    h, weights = h.double().requires_grad_(), weights.double().requires_grad_()
    leaves = {e: [w.double().requires_grad_() for w in some] for e, some in experts.items()}
    out = torch.zeros_like(h)
    for e in range(EXPERTS):
        out = out + expert(e, h, leaves[e], (weights * (ids == e)).sum(1, keepdim=True))
    out.backward(grad.double())
    assert h.grad is not None and weights.grad is not None
    flat = [torch.cat([w.grad.flatten() for w in leaves[e]]) for e in range(EXPERTS)]  # type: ignore[union-attr]
    return out.detach(), h.grad, weights.grad, *flat


@pytest.mark.parametrize("kind", ["random", "hot", "empty"])
def test_it_is_what_autograd_says(kind: str) -> None:
    given, grad = inputs(23, 1, kind), torch.randn(23, DIM)
    mine = over_ranks(Settings(Waves(EXPERTS, 3, 2)), [10, 0, 13], given, grad)
    for some, expected in zip(mine, plain(given, grad), strict=True):
        if len(some):
            assert torch.allclose(some.double(), expected, rtol=1e-4, atol=1e-5)
        else:  # an expert without tokens
            assert kind == "empty" and not expected.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("wire", "back"), [("fp32", "fp32"), ("bf16", "bf16"), ("fp8", "bf16"), ("fp8", "fp32")])
@pytest.mark.parametrize("kind", ["random", "hot", "empty"])
def test_the_same_bits_over_ranks_and_waves(wire: str, back: str, kind: str, dtype: torch.dtype) -> None:
    given, grad = inputs(24, 2, kind), torch.randn(24, DIM)
    one = over_ranks(Settings(Waves(EXPERTS), wire, back), [24], given, grad, dtype)  # type: ignore[arg-type]
    for ranks, waves, ring, cuts in (
        (1, 4, 2, [24]),
        (2, 1, 0, [12, 12]),
        (2, 4, 1, [24, 0]),
        (4, 2, 2, [1, 9, 0, 14]),
    ):
        settings = Settings(Waves(EXPERTS, ranks, waves, ring), wire, back)  # type: ignore[arg-type]
        assert all(torch.equal(*pair) for pair in zip(over_ranks(settings, cuts, given, grad, dtype), one, strict=True))


def test_narrow_wires_round() -> None:
    given, grad = inputs(24, 3), torch.randn(24, DIM)
    exact, *others = (
        over_ranks(Settings(Waves(EXPERTS), *wires), [24], given, grad)[0]  # type: ignore[arg-type]
        for wires in (("fp32", "fp32"), ("bf16", "bf16"), ("fp8", "bf16"))
    )
    errors = [float((other - exact).norm() / exact.norm()) for other in others]
    assert 1e-4 < errors[0] < 1e-2 < errors[1] < 1e-1


def random_schedule(seed: int) -> None:
    rng = random.Random(seed)
    ranks = rng.randint(1, 4)
    num_waves = rng.randint(1, EXPERTS // ranks)
    num_tokens = rng.randint(0, 12)
    edges = sorted(rng.randint(0, num_tokens) for _ in range(ranks - 1))
    cuts = [b - a for a, b in zip([0, *edges], [*edges, num_tokens], strict=True)]
    settings = Settings(Waves(EXPERTS, ranks, num_waves, rng.randint(0, num_waves)))
    given, grad = inputs(num_tokens, seed, rng.choice(["random", "hot", "empty"])), torch.randn(num_tokens, DIM)
    mine = over_ranks(settings, cuts, given, grad, seed=seed)
    one = over_ranks(Settings(Waves(EXPERTS)), [num_tokens], given, grad)
    assert all(torch.equal(*pair) for pair in zip(mine, one, strict=True)), seed


def test_random_schedules() -> None:
    for seed in range(300):
        random_schedule(seed)


@pytest.mark.slow
def test_ten_thousand_random_schedules() -> None:
    for seed in range(10_000):
        random_schedule(seed)


def test_a_schedule_that_waits_for_itself_is_found() -> None:
    transports = local_transports(2)

    def waits(rank: int):  # type: ignore[no-untyped-def]
        room = torch.zeros(1)
        yield transports[rank].receive(1 - rank, room)
        transports[rank].send(1 - rank, room)

    with pytest.raises(RuntimeError, match=r"\[0, 1\] wait for each other"):
        run_together([waits(0), waits(1)])


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="the schedule has 2"):
        Pass(local_transports(1)[0], Settings(Waves(EXPERTS, 2)), expert)
    with pytest.raises(ValueError, match="'bf16' or 'fp32'"):
        Settings(Waves(EXPERTS), "fp8", "fp8")
    one = Pass(local_transports(1)[0], Settings(Waves(4)), expert)
    h, weights, ids, experts = inputs(3, 0)
    with pytest.raises(ValueError, match="expected 0 to 3"):
        run_together([one.forward(h, weights, ids + 4, experts)])
