"""Gradients of training's own ops and of the whole objective, against float64: autograd of the plain meaning, and
differences of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.tiny import CONFIG
from wavefold import ops
from wavefold.cache import FreshView
from wavefold.data.batches import IGNORED, pack
from wavefold.model.batch import Batch
from wavefold.model.official import official_tensor, official_tensors
from wavefold.model.training_pass import TrainingPass
from wavefold.ops import Arithmetic
from wavefold.ops.reference.index_loss import index_divergence, index_loss
from wavefold.ops.reference.joint_attention import joint_attention
from wavefold.train.chunked_loss import PIECE_LOGITS, cross_entropy_sum
from wavefold.train.objective import Objective
from wavefold.train.start import new_model

EXACT = Arithmetic("exact", torch.float64)
LENGTHS = (300, 7, 130, 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def grads(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def close(mine: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert float((a.double() - b).norm()) <= tolerance * float(b.norm()) + 1e-14


def plain_attention(
    q: Tensor, kv: Tensor, entries: Tensor, sink: Tensor, window: int, ratio: int, chosen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """All of it at once: o, and the mass of each entry, with gradients."""
    n = len(q)
    age = torch.arange(n)[:, None] - torch.arange(n)
    seen = torch.arange(len(entries)) < ((torch.arange(n) + 1) // max(1, ratio))[:, None]
    if chosen is not None:
        seen = seen & chosen
    keys = torch.cat((kv, entries))
    z = torch.einsum("nhc,kc->nhk", q, keys) * q.shape[-1] ** -0.5
    z = z.masked_fill(~torch.cat(((age >= 0) & (age < window), seen), 1)[:, None], -torch.inf)
    z = torch.cat((z, sink.double()[None, :, None].expand(n, -1, 1)), -1)
    p = z.softmax(-1)[..., :-1]
    return torch.einsum("nhk,kc->nhc", p, keys), p[..., n:].sum(1)


@pytest.mark.parametrize("n", [1, 5, 127, 128, 300])
@pytest.mark.parametrize(("ratio", "choose"), [(0, False), (4, False), (4, True), (128, False)])
def test_joint_attention(n: int, ratio: int, choose: bool) -> None:
    q, kv, sink = normal(n, 3, 16), normal(n, 16, seed=1), normal(3, seed=2)
    entries = normal(n // ratio if ratio else 0, 16, seed=3)
    chosen = torch.rand(n, len(entries), generator=torch.Generator().manual_seed(4)) < 0.5 if choose else None
    weight = normal(n, 3, 16, seed=5).detach()
    o, mass = joint_attention(q, kv, entries, sink, 100, ratio, chosen, mass=True)
    expected, expected_mass = plain_attention(q, kv, entries, sink, 100, ratio, chosen)
    assert torch.allclose(o, expected) and torch.allclose(mass, expected_mass)
    assert not mass.requires_grad
    inputs = (q, kv, sink, *([entries] if len(entries) else []))
    close(grads((o * weight).sum(), *inputs), grads((expected * weight).sum(), *inputs), 1e-12)


def test_joint_attention_is_what_inference_computes() -> None:
    """The running softmax over pieces of keys, another program for the same thing."""
    q, kv, entries, sink = normal(200, 2, 16), normal(200, 16, seed=1), normal(50, 16, seed=2), normal(2, seed=3)
    softmax = ops.RunningSoftmax(q, EXACT)
    age = torch.arange(200)[:, None] - torch.arange(200)
    softmax.add(kv, (age >= 0) & (age < 128))
    softmax.add(entries, torch.arange(50) < ((torch.arange(200) + 1) // 4)[:, None])
    o, _ = joint_attention(q, kv, entries, sink, 128, 4, None, mass=False)
    assert torch.allclose(o, softmax.finish(sink))


@pytest.mark.parametrize("n", [1, 4, 300])
def test_index_loss(n: int) -> None:
    entries = n // 4
    q, weights, keys = normal(n, 3, 32), normal(n, 3, seed=1), normal(entries, 32, seed=2)
    mass = normal(n, entries, seed=3).detach().abs()
    seen = torch.arange(entries) < ((torch.arange(n) + 1) // 4)[:, None]
    seen &= torch.rand(n, entries, generator=torch.Generator().manual_seed(4)) < 0.7
    mine = index_loss(q, weights, keys, mass, seen, EXACT)
    plain = index_divergence(q, weights, keys, mass, seen, EXACT)
    assert torch.allclose(mine, plain)
    close(grads(mine, q, weights, keys), grads(plain, q, weights, keys), 1e-12)


def test_index_loss_points_towards_the_teacher() -> None:
    """A step against the gradient brings the scores' softmax closer to the attention, and at the teacher it is zero."""
    q, weights, keys = normal(64, 2, 32), normal(64, 2, seed=1), normal(16, 32, seed=2)
    seen = torch.arange(16) < ((torch.arange(64) + 1) // 4)[:, None]
    mass = normal(64, 16, seed=3).detach().exp()
    loss = index_loss(q, weights, keys, mass, seen, EXACT)
    g = grads(loss, q, weights, keys)
    moved = [x.detach() - 1e-3 * d for x, d in zip((q, weights, keys), g, strict=True)]
    assert index_loss(moved[0], moved[1], moved[2], mass, seen, EXACT) < loss
    learned = ops.index_scores(q, weights, keys, EXACT).softmax(-1).detach()
    best = index_loss(q, weights, keys, learned, seen, EXACT)
    assert float(best.detach()) == pytest.approx(0, abs=1e-9)
    assert all(float(x.norm()) < 1e-9 for x in grads(best, q, weights, keys))


@pytest.mark.parametrize("n", [1, 33, PIECE_LOGITS // 70_000 + 5])
def test_cross_entropy(n: int) -> None:
    vocab = 70_000 if n > 33 else 50  # one case in more than one piece
    hidden, head = normal(n, 8), normal(vocab, 8, seed=1)
    targets = torch.randint(0, vocab, (n,), generator=torch.Generator().manual_seed(2))
    targets[n // 2 :: 3] = IGNORED
    mine = cross_entropy_sum(hidden, head, targets)
    plain = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum", ignore_index=IGNORED)
    assert torch.allclose(mine, plain)
    close(grads(3 * mine, hidden, head), grads(3 * plain, hidden, head), 1e-12)


def test_balance_loss_is_least_where_load_is_even() -> None:
    scores = normal(40, 4).detach().exp().requires_grad_()
    ids = scores.topk(2).indices
    mine = ops.balance_loss(scores, ids, (30, 10))
    expected = torch.zeros((), dtype=torch.float64)
    for rows in (slice(0, 30), slice(30, 40)):
        share = torch.stack([(ids[rows] == e).sum() for e in range(4)]).double() * 4 / (2 * (rows.stop - rows.start))
        affinity = (scores[rows] / scores[rows].sum(-1, keepdim=True)).mean(0)
        expected = expected + (rows.stop - rows.start) * (share * affinity).sum()
    assert torch.allclose(mine, expected)
    close(grads(mine, scores), grads(expected, scores), 1e-12)
    even = torch.full((8, 4), 0.5, dtype=torch.float64)
    assert float(ops.balance_loss(even, torch.arange(16).view(8, 2) % 4, (8,))) == pytest.approx(8)


def float64_model(seed: int = 0):
    model = new_model(CONFIG, EXACT, seed).double()
    for _, parameter in official_tensors(model):
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def batch(seed: int = 0):
    rng = np.random.default_rng(seed)
    return pack([rng.integers(0, CONFIG.vocab_size, n + 1) for n in LENGTHS])


def all_grads(model, loss: Tensor) -> dict[str, Tensor]:
    for _, tensor in official_tensors(model):
        tensor.grad = None
    loss.backward()
    return {name: p.grad.clone() for name, p in official_tensors(model) if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
def test_objective_has_the_gradients_of_the_models_own_pass(recompute: bool) -> None:
    """Against running softmax, whole logits, torch's cross-entropy: the pass that transformers agrees with."""
    model, packed = float64_model(), batch()
    view = Batch.of(CONFIG, packed.tokens, [FreshView(n) for n in packed.lengths])
    logits = model.logits(model.final(model.run_blocks(view)))
    expected = all_grads(model, torch.nn.functional.cross_entropy(logits, packed.targets, reduction="sum"))
    losses = Objective(model, recompute=recompute)(packed, False, TrainingPass("sparse"))
    mine = all_grads(model, losses.next_token)
    assert set(expected) <= set(mine)
    close([mine[name] for name in expected], [expected[name] for name in expected], 1e-10)
    assert not any(mine[name].any() for name in set(mine) - set(expected))


@pytest.mark.parametrize("attention", ["dense", "warmup", "sparse"])
def test_objective_has_the_slope_of_its_loss(attention: str) -> None:
    """All losses together, along random directions of all parameters at once."""
    model, packed = float64_model(), batch()
    objective = Objective(model)

    def loss() -> Tensor:
        losses = objective(packed, True, TrainingPass(attention, balance=True))
        return losses.next_token + losses.mtp + 10 * losses.balance

    found = all_grads(model, loss())
    parameters = {name: official_tensor(model, name) for name in found}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std().clamp(min=0.01)
                     if p.numel() > 1 else torch.ones_like(p) * 0.01 for name, p in parameters.items()}  # fmt: skip
        slope = sum(float((found[name] * d).sum()) for name, d in direction.items())
        step, values = 1e-7, []
        for sign in (1, -1):
            with torch.no_grad():
                for name, p in parameters.items():
                    p.add_(direction[name], alpha=sign * step)
                values.append(float(loss()))
                for name, p in parameters.items():
                    p.sub_(direction[name], alpha=sign * step)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("attention", ["dense", "warmup", "sparse"])
def test_only_its_own_loss_teaches_the_indexer_and_nothing_else(attention: str) -> None:
    model, packed = float64_model(), batch()
    losses = Objective(model)(packed, True, TrainingPass(attention))
    if attention == "dense":
        assert not losses.index.requires_grad and float(losses.index) == 0
        return
    moved = {name for name, grad in all_grads(model, losses.index).items() if grad.any()}
    assert moved == {name for name, _ in official_tensors(model) if ".indexer." in name}


def test_indexer_learns_under_packing_what_it_learns_alone() -> None:
    """Sequences side by side give the sum of the gradients that each gives: nothing crosses a document."""
    model, rng = float64_model(), np.random.default_rng(1)
    pieces = [rng.integers(0, CONFIG.vocab_size, n + 1) for n in LENGTHS]

    def index_grads(some: list[np.ndarray]) -> dict[str, Tensor]:
        losses = Objective(model)(pack(some), False, TrainingPass("sparse"))
        return all_grads(model, losses.index) if losses.index.requires_grad else {}

    together = index_grads(pieces)
    apart = [index_grads([piece]) for piece in pieces]
    names = [name for name in together if ".indexer." in name]
    sums = [sum(part[name] for part in apart if name in part) for name in names]
    assert names
    close([together[name] for name in names], sums, 1e-10)  # type: ignore[arg-type]


def test_indexer_comes_to_choose_what_attention_looks_at() -> None:
    """Warm-up alone, on one batch: the share of attention's mass that its top-k holds grows, and the KL falls."""
    model, packed = new_model(CONFIG, Arithmetic("exact", torch.float32), 0), batch()
    with torch.no_grad():  # attention with a preference to learn
        for block in model.layers:
            block.attn.wq_b.weight.mul_(6)
    objective = Objective(model)
    optimizer = torch.optim.AdamW([p for n, p in official_tensors(model) if ".indexer." in n], lr=3e-3)

    def captured() -> float:
        watch = TrainingPass("dense", watch_capture=True)
        with torch.no_grad():
            objective(packed, False, watch)
        held, of = watch.captured[1]
        return held / of

    before, losses = captured(), []
    for _ in range(40):
        loss = objective(packed, False, TrainingPass("warmup")).index
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert captured() > before + 0.05
