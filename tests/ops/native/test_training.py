"""Kernels of training against float64 autograd of the references, on the same bfloat16 values: results and gradients.

A result is rounded to bfloat16 once (2e-3 of its RMS), a gradient once or twice; float32 ones see the rounding of what
they are made of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wavefold import ops, quant
from wavefold.ops import Arithmetic, native
from wavefold.ops.native import compress_grad, expert_rows, hyper_grad, joint_attention, losses, norm_grad, swiglu
from wavefold.ops.reference import hyper_connection as reference
from wavefold.quant import Weight
from wavefold.quant.weight import DECODED

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

BF16, WIDE = Arithmetic("exact", torch.bfloat16), Arithmetic("exact", torch.float64)
MIX = 20, 1e-6, 1e-6
RESULT, GRADIENT = 3e-3, 4e-3
Threads = Callable[[int], AbstractContextManager[None]]
Op = Callable[[list[Tensor], Arithmetic], Tensor | tuple[Tensor, ...]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def error(got: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of what is expected."""
    assert got.shape == expected.shape and got.isfinite().all()
    return float((got.detach().double() - expected.detach()).norm() / expected.detach().norm().clamp(min=1e-30))


def run(op: Op, given: list[Tensor], arithmetic: Arithmetic) -> tuple[list[Tensor], list[Tensor]]:
    """What the op gives, and the gradients of what it was given for a random gradient of that."""
    wide = arithmetic.dtype == torch.float64
    leaves = [(x.double() if wide else x.clone()).requires_grad_() for x in given]
    with ops.using(backend="reference" if wide else "auto"):
        out = op(leaves, arithmetic)
    results = list(out) if isinstance(out, tuple) else [out]
    grads = [random(*x.shape, seed=5).bfloat16() for x in results]
    torch.autograd.backward(results, [g.to(x.dtype) for g, x in zip(grads, results, strict=True)])
    return results, [x.grad for x in leaves if x.grad is not None]


def check(op: Op, given: list[Tensor], gradient: float = GRADIENT, result: float = RESULT) -> None:
    results, grads = run(op, given, BF16)
    expected_results, expected_grads = run(op, given, WIDE)
    assert [x.dtype for x in grads] == [x.dtype for x in given]
    assert all(error(*pair) < result for pair in zip(results, expected_results, strict=True))
    assert all(error(*pair) < gradient for pair in zip(grads, expected_grads, strict=True))


def mixer(streams: int, hidden: int, last: bool) -> list[Tensor]:
    outputs = streams if last else 2 * streams + streams**2
    fn = random(outputs, streams * hidden) / (streams * hidden) ** 0.5
    return [fn, random(outputs), random(1 if last else 3).abs() + 0.1]


def connection(given: list[Tensor], arithmetic: Arithmetic) -> tuple[Tensor, ...]:
    return ops.hc_read(*given, *MIX, arithmetic)  # type: ignore[call-arg]


def turned(pairs: int, n: int) -> tuple[Tensor, Tensor]:
    angles = random(n, pairs) * 3
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("hidden", [2, 30, 64, 77, 256])
@pytest.mark.parametrize("tokens", [1, 3, 16, 53])
def test_hyper_connection(isa: str, tokens: int, hidden: int) -> None:
    x = random(tokens, 4, hidden).bfloat16()
    check(connection, [x, *mixer(4, hidden, False)])
    check(lambda given, arithmetic: connection(given, arithmetic)[0], [x, *mixer(4, hidden, False)])
    check(lambda given, arithmetic: ops.hc_head(*given, *MIX[1:], arithmetic), [x, *mixer(4, hidden, True)])  # type: ignore[call-arg]
    returned = [random(tokens, hidden).bfloat16(), x, random(tokens, 4), random(tokens, 4, 4)]
    check(lambda given, arithmetic: ops.hc_expand(*given, arithmetic), returned)  # type: ignore[call-arg]


def test_extreme_mixes_have_finite_gradients(isa: str) -> None:
    fn, base, scale = mixer(4, 32, False)
    for size in (0.0, 100.0, -100.0):
        for iters in (1, 2, 20):
            leaves = [t.clone().requires_grad_() for t in (random(5, 4, 32).bfloat16(), fn, base + size, scale * size)]
            out = hyper_grad.hc_read(*leaves, iters, 1e-6, 1e-6)  # type: ignore[call-arg, misc]
            torch.autograd.backward(out, [torch.ones_like(x) for x in out])
            assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize(("columns", "pairs"), [(8, 4), (30, 3), (77, 16), (512, 32)])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_norms_and_rotation(isa: str, tokens: int, columns: int, pairs: int) -> None:
    x, heads = random(tokens, columns).bfloat16(), random(tokens, 3, columns).bfloat16()
    weight, table = random(columns).bfloat16(), turned(pairs, tokens)
    for some in (weight, weight.float()):
        check(lambda given, arithmetic: ops.rms_norm(*given, 1e-6, arithmetic), [x, some])  # type: ignore[call-arg]
    check(lambda given, arithmetic: ops.rms_norm_rotated(*given, 1e-6, table, arithmetic), [x, weight.float()])  # type: ignore[call-arg]
    check(lambda given, arithmetic: ops.rms_norm_rotated(given[0], None, 1e-6, table, arithmetic), [heads])
    for inverse in (False, True):
        turn = functools.partial(ops.rotate, table=table, inverse=inverse)
        check(lambda given, arithmetic, turn=turn: turn(given[0], arithmetic=arithmetic), [heads])


@pytest.mark.parametrize("inter", [1, 30, 256])
@pytest.mark.parametrize("tokens", [1, 37])
@pytest.mark.parametrize("routed", [False, True])
def test_swiglu(isa: str, tokens: int, inter: int, routed: bool) -> None:
    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        gate, up, *route = given
        if arithmetic is BF16:
            return swiglu.swiglu(gate, up, route[0] if route else None, 2.5)
        inner = F.silu(gate.clamp(max=2.5)) * up.clamp(-2.5, 2.5)
        return inner * route[0] if route else inner

    given = [(3 * random(tokens, inter, seed=seed)).bfloat16() for seed in (0, 1)]
    check(op, [*given, random(tokens, 1).abs() + 0.1] if routed else given)


@pytest.mark.parametrize(
    ("ratio", "dim", "overlap", "lengths"),
    [
        (4, 32, True, [4]), (4, 30, True, [9, 4, 3, 17]), (4, 128, True, [64, 1]),
        (5, 20, False, [5, 11, 2]), (128, 77, False, [256, 130]),
    ],
)  # fmt: skip
def test_pooling(isa: str, ratio: int, dim: int, overlap: bool, lengths: list[int]) -> None:
    width, n = dim * (2 if overlap else 1), sum(lengths)

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        if arithmetic is BF16:
            return compress_grad.compress_sequences(*given, ratio, overlap, lengths)  # type: ignore[call-arg]
        (kv, score), places = (x.split(lengths) for x in given[:2]), [n // ratio * ratio for n in lengths]
        return torch.cat([
            ops.compress_blocks(a[:whole], b[:whole] + given[2].repeat(whole // ratio, 1), ratio, overlap, False)
            for a, b, whole in zip(kv, score, places, strict=True) if whole
        ])  # fmt: skip

    check(op, [random(n, width).bfloat16(), (2 * random(n, width, seed=1)).bfloat16(), random(ratio, width)])


def test_compress_is_its_reference(isa: str) -> None:
    lengths = [9, 12]

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        h, wkv, wgate, ape = given
        return ops.compress(h, Weight.of(wkv), Weight.of(wgate), ape, 4, True, lengths, arithmetic)

    given = [random(21, 16), random(24, 16, seed=1) / 4, random(24, 16, seed=2) / 4]
    results, grads = run(op, [*(x.bfloat16() for x in given), random(4, 24)], BF16)
    expected, expected_grads = run(op, [*(x.bfloat16() for x in given), random(4, 24)], WIDE)
    assert error(results[0], expected[0]) < 1e-2
    assert all(error(*pair) < 1.5e-2 for pair in zip(grads, expected_grads, strict=True))  # kv and score are rounded


def attention_inputs(lengths: list[int], heads: int, dim: int, ratio: int) -> list[Tensor]:
    n, entries = sum(lengths), sum(length // ratio if ratio else 0 for length in lengths)
    shapes = (n, heads, dim), (n, dim), (entries, dim)
    return [*(random(*shape, seed=i).bfloat16() for i, shape in enumerate(shapes)), random(heads)]


@pytest.mark.parametrize(
    ("lengths", "heads", "dim", "window", "ratio", "choose"),
    [
        ([1, 6], 1, 32, 4, 0, False), ([70, 3, 200], 2, 64, 16, 4, True), ([130, 300], 3, 32, 128, 4, False),
        ([260], 5, 96, 20, 128, True), ([9, 33], 130, 32, 5, 2, True), ([1200], 2, 32, 64, 2, True),
    ],
)  # fmt: skip
def test_attention(
    isa: str, lengths: list[int], heads: int, dim: int, window: int, ratio: int, choose: bool
) -> None:  # fmt: skip
    chosen = [random(n, n // ratio) > 0 for n in lengths] if choose else None
    masses = []

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        o, fell = ops.attend_sequences(*given, window, ratio, lengths, chosen, True, arithmetic)  # type: ignore[call-arg]
        masses.append(fell)
        return o

    check(op, attention_inputs(lengths, heads, dim, ratio))
    for mine, theirs in zip(*masses, strict=True):
        assert not mine.requires_grad and mine.shape == theirs.shape
        assert torch.allclose(mine.double(), theirs, rtol=1e-5, atol=1e-6)


def test_what_attention_may_not_see(isa: str) -> None:
    """Later tokens and entries, and entries that are not chosen, change nothing, NaN among them."""
    given, chosen = attention_inputs([100], 2, 32, 4), torch.ones(100, 25, dtype=torch.bool)
    chosen[:, 3] = False
    spoiled = [x.clone() for x in given]
    spoiled[1][80:], spoiled[2][20:], spoiled[2][3] = torch.nan, torch.nan, 7.0
    outs = [joint_attention.joint_attention(*x, 16, 4, [100], [chosen], False)[0] for x in (given, spoiled)]  # type: ignore[call-arg]
    assert torch.equal(outs[0][:64], outs[1][:64])  # a chunk of queries before


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("n", "heads", "choose"), [(4, 1, False), (13, 3, True), (301, 4, True), (301, 2, False)])
def test_index_loss(isa: str, n: int, heads: int, choose: bool, rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "PIECE_DOTS", 100 * heads * (n // 4))
    mass = random(n, n // 4).exp() * (random(n, 1) > -1)
    chosen = random(n, n // 4) > -0.3 if choose else None

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        wide = arithmetic.dtype == torch.float64
        rounds = Arithmetic("exact", arithmetic.dtype, fp4_index=rounded)
        return ops.sequence_index_loss(*given, mass.double() if wide else mass, chosen, 4, rounds)  # type: ignore[call-arg]

    shapes = (n, heads, 32), (n, heads), (n // 4, 32)
    given = [random(*shape, seed=i).bfloat16() / 4 for i, shape in enumerate(shapes)]
    results, grads = run(op, given, BF16)
    expected, expected_grads = run(op, given, WIDE)
    assert error(results[0], expected[0]) < (2e-3 if rounded else 1e-5)
    assert all(error(*pair) < (2e-2 if rounded else GRADIENT) for pair in zip(grads, expected_grads, strict=True))


@pytest.mark.parametrize("vocabulary", [1, 17, 300])
def test_cross_entropy(isa: str, vocabulary: int) -> None:
    logits, targets = (4 * random(40, vocabulary)).bfloat16(), torch.arange(40) % vocabulary
    targets[3] = targets[39] = -100
    wide = logits.double().requires_grad_()
    nats = F.cross_entropy(wide, targets, reduction="none")
    nats.sum().backward()
    with ops.using(backend="auto"), torch.no_grad():
        mine, grad = ops.cross_entropy_(logits.clone(), targets, -100)
    assert torch.allclose(mine.double(), nats.detach(), rtol=1e-5, atol=1e-5)
    assert wide.grad is not None and (vocabulary == 1 or error(grad, wide.grad) < RESULT)
    with ops.using(backend="reference"):
        theirs, back = ops.cross_entropy_(logits.clone(), targets, -100)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5) and torch.allclose(grad, back, rtol=1e-2, atol=1e-6)


def test_a_loss_of_nan_is_nan(isa: str) -> None:
    logits = random(3, 40).bfloat16()
    logits[1, 5] = torch.nan
    nats = losses.cross_entropy_(logits, torch.zeros(3, dtype=torch.int64))
    assert nats.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 5), (37, 64)])
def test_rows_to_experts_and_back(isa: str, tokens: int, hidden: int) -> None:
    ids = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(i))[:3] for i in range(tokens)])

    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        h, weights, shared = given
        if arithmetic is not BF16:  # expert e multiplies by e + 1
            return shared + h * (weights * (ids + 1)).sum(1, keepdim=True)
        rows = ops.ExpertRows(ids, 5)
        taken, route = rows.take(h, weights)
        times = torch.tensor(rows.experts).repeat_interleave(torch.tensor(rows.counts))[:, None] + 1
        return rows.sum((taken.float() * route * times).bfloat16(), shared)

    given = [random(tokens, hidden).bfloat16(), random(tokens, 3).abs() + 0.1, random(tokens, hidden).bfloat16()]
    check(op, given)
    assert sum(ops.ExpertRows(ids, 5).counts) == ids.numel()


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_grouped_linear(groups: int) -> None:
    def op(given: list[Tensor], arithmetic: Arithmetic) -> Tensor:
        return ops.grouped_linear(given[0], Weight.of(given[1]), groups)  # type: ignore[call-arg]

    check(op, [random(37, groups * 24).bfloat16(), random(groups * 8, 24).bfloat16()])


def stored(rows: int, columns: int, form: str) -> Weight:
    """A weight as a checkpoint has it, frozen, or the values of such a one."""
    quantize = quant.quantize_fp4 if form == "fp4" else quant.quantize_fp8
    weight = Weight.of(*quantize(random(rows, columns) / columns**0.5))
    return Weight.of(weight.decode(torch.bfloat16), DECODED) if form == "decoded" else weight


@pytest.mark.parametrize("activations", ["exact", "released"])
@pytest.mark.parametrize("form", ["fp4", "fp8", "decoded"])
def test_frozen_weights_carry_gradients(isa: str, form: str, activations: Literal["exact", "released"]) -> None:
    """In released arithmetic the input of each product is rounded in training as it is in serving."""
    arithmetic = Arithmetic(activations, torch.bfloat16)
    w1, w2, w3 = (stored(256, 256, form) for _ in range(3))
    given = random(37, 256).bfloat16()
    for op in (
        lambda x: ops.linear(x, w1, arithmetic),
        lambda x: ops.linear(x, w1, arithmetic) + ops.linears(x, [w2, w3], arithmetic)[1],
        lambda x: ops.expert(x, w1, w2, w3, random(37, 1).abs(), 10.0, arithmetic),
        lambda x: ops.grouped_linear(x, stored(256, 128, form), 2),
        lambda x: ops.grouped_linear(x, stored(128, 128, form), 2),  # of FP8 a group begins amid a scale's rows
    ):
        pairs = []
        for backend in ("auto", "reference"):
            x = given.clone().requires_grad_()
            with ops.using(backend=backend):
                y = op(x)
                y.backward(random(*y.shape, seed=5).bfloat16())
                with torch.no_grad():
                    served = op(given)
            pairs.append((y, served, x.grad))
        (y, served, grad), (expected, _, expected_grad) = pairs
        assert error(y, expected.double()) < RESULT and error(served, expected.double()) < RESULT
        assert grad is not None and expected_grad is not None and error(grad, expected_grad.double()) < 2 * GRADIENT


@pytest.mark.parametrize("name", ops.isas())
def test_the_same_bits_on_other_threads(name: str, threads: Threads) -> None:
    with ops.using(isa=name):
        seen = []
        for count in (1, 2, 3):
            with threads(count):
                x = random(200, 4, 24).bfloat16()
                _, grads = run(connection, [x, *mixer(4, 24, False)], BF16)
                _, more = run(lambda given, _: norm_grad.norm(*given, 1e-6, None), [x, random(24)], BF16)  # type: ignore[call-arg]
                pooled = [random(800, 24).bfloat16(), random(800, 24, seed=1).bfloat16(), random(4, 24)]
                _, last = run(lambda given, _: compress_grad.compress_sequences(*given, 4, True, [800]), pooled, BF16)  # type: ignore[call-arg]
                given = attention_inputs([300, 90], 2, 32, 4)
                facts = 32, 4, [300, 90], None, False, BF16
                _, joint = run(lambda given, _, facts=facts: ops.attend_sequences(*given, *facts)[0], given, BF16)  # type: ignore[misc]
                seen.append([*grads, *more, *last, *joint])
        assert all(torch.equal(*pair) for some in seen[1:] for pair in zip(some, seen[0], strict=True))


def test_who_computes() -> None:
    """Kernels where gradients are wanted in bfloat16, the reference's bits for the rest."""
    x, weight = random(4, 8).bfloat16(), random(8)
    with ops.using(backend="auto"):
        assert "_Norm" in type(ops.rms_norm(x.requires_grad_(), weight, 1e-6, BF16).grad_fn).__name__
        wide = ops.rms_norm(x.detach().float().requires_grad_(), weight, 1e-6, Arithmetic("exact", torch.float32))
        assert "_Norm" not in type(wide.grad_fn).__name__
        streams = random(3, 2, 8).bfloat16().requires_grad_()  # two streams: the reference
        read = ops.hc_read(streams, *mixer(2, 8, False), *MIX, BF16)  # type: ignore[call-arg]
        assert read[3] is streams
    with ops.using(backend="reference"):
        assert "_Norm" not in type(ops.rms_norm(x, weight, 1e-6, BF16).grad_fn).__name__
    assert reference.hc_collapse(random(3, 4, 8).bfloat16(), torch.ones(3, 4)).dtype == torch.bfloat16


def wrong_calls() -> dict[str, Callable[[], Any]]:
    x, streams, table = random(4, 8).bfloat16(), random(3, 4, 8).bfloat16(), turned(2, 4)
    fn, base, scale = mixer(4, 8, False)
    kv, ape = random(8, 6).bfloat16(), random(4, 6)
    q, keys, entries, sink = attention_inputs([9], 2, 32, 4)
    index = random(9, 2, 8).bfloat16(), random(9, 2).bfloat16(), random(2, 8).bfloat16(), random(9, 2)
    mass, all_chosen = index[3], torch.ones(9, 2, dtype=torch.bool)
    logits, targets = random(4, 6).bfloat16(), torch.arange(4)

    def attend(*given: Tensor, lengths: tuple[int, ...] = (9,), ratio: int = 4, chosen: Tensor = all_chosen) -> Any:
        return joint_attention.joint_attention(*given, 8, ratio, lengths, [chosen], False)  # type: ignore[call-arg]

    return {
        "streams": lambda: hyper_grad.hc_read(random(3, 2, 8).bfloat16(), *mixer(2, 8, False), *MIX),  # type: ignore[call-arg]
        "iterations": lambda: hyper_grad.hc_read(streams, fn, base, scale, 0, 1e-6, 1e-6),
        "fn": lambda: hyper_grad.hc_read(streams, fn[:, 1:], base, scale, *MIX),
        "base": lambda: hyper_grad.hc_read(streams, fn, base[1:], scale, *MIX),
        "scale": lambda: hyper_grad.hc_read(streams, fn, base, scale[1:], *MIX),
        "float32 streams": lambda: hyper_grad.hc_read(streams.float(), fn, base, scale, *MIX),
        "head": lambda: hyper_grad.hc_head(streams, fn, base, scale, 1e-6, 1e-6),
        "sublayer's output": lambda: hyper_grad.hc_expand(x, streams, random(3, 4), random(3, 4, 4)),
        "comb": lambda: hyper_grad.hc_expand(x[:3], streams, random(3, 4), random(3, 4)),
        "weight": lambda: norm_grad.norm(x, random(7), 1e-6, None),
        "float32": lambda: norm_grad.norm(x.float(), random(8), 1e-6, None),
        "table of other rows": lambda: norm_grad.norm(x, None, 1e-6, turned(2, 3)),
        "wide table": lambda: norm_grad.rotate(x, turned(5, 4), False),
        "sine": lambda: norm_grad.rotate(x, (table[0], table[1][:, 1:]), False),
        "no rows": lambda: norm_grad.norm(x[:0], None, 1e-6, None),
        "gate": lambda: swiglu.swiglu(x[:3], x, None, 1.0),
        "route": lambda: swiglu.swiglu(x, x, random(4), 1.0),
        "lengths": lambda: compress_grad.compress_sequences(kv, kv, ape, 4, True, [4, 5]),
        "fewer lengths": lambda: compress_grad.compress_sequences(kv, kv, ape, 4, True, [4]),
        "empty sequence": lambda: compress_grad.compress_sequences(kv, kv, ape, 4, True, [8, 0]),
        "no entry": lambda: compress_grad.compress_sequences(kv, kv, random(9, 6), 9, True, [8]),
        "ape": lambda: compress_grad.compress_sequences(kv, kv, ape[:3], 4, True, [8]),
        "heads": lambda: attend(q, keys, entries, sink[1:]),
        "tokens": lambda: attend(q, keys[1:], entries, sink),
        "entries": lambda: attend(q, keys, entries[1:], sink),
        "dim": lambda: attend(q[..., :16], keys[:, :16], entries[:, :16], sink),
        "sequences": lambda: attend(q, keys, entries, sink, lengths=(8,)),
        "ratio": lambda: attend(q, keys, entries[:0], sink, ratio=-1, chosen=all_chosen[:, :0]),
        "choice": lambda: attend(q, keys, entries, sink, chosen=all_chosen[1:]),
        "choice of bytes": lambda: attend(q, keys, entries, sink, chosen=all_chosen.to(torch.uint8)),
        "float32 queries": lambda: attend(q.float(), keys, entries, sink),
        "mass": lambda: losses.index_loss(*index[:3], mass[1:], None, 4, False),
        "wide mass": lambda: losses.index_loss(*index[:3], mass.double(), None, 4, False),
        "index heads": lambda: losses.index_loss(index[0], index[1][:, 1:], index[2], mass, None, 4, False),
        "index choice": lambda: losses.index_loss(*index, all_chosen[1:], 4, False),
        "index ratio": lambda: losses.index_loss(*index, None, 0, False),
        "target": lambda: losses.cross_entropy_(logits, targets + 3),
        "targets": lambda: losses.cross_entropy_(logits, targets[1:]),
        "float32 logits": lambda: losses.cross_entropy_(logits.float(), targets),
        "row that is not there": lambda: expert_rows.take_rows(x, torch.tensor([0, 4]), targets[:, None]),
        "row before the first": lambda: expert_rows.take_rows(x, torch.tensor([0, -1]), targets[:, None]),
        "row numbers": lambda: expert_rows.take_rows(x, targets.int(), targets[:, None]),
        "added": lambda: expert_rows.sum_rows(x, targets, targets[:, None], x[1:]),
        "score": lambda: compress_grad.compress_sequences(kv, kv[1:], ape, 4, True, [8]),
    }  # fmt: skip


@pytest.mark.parametrize("name", wrong_calls())
def test_what_does_not_fit_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"fit|take bfloat16|refused"):
        wrong_calls()[name]()
