"""Passes of the MTP module, and the streams that it reads: by kernels and by modules, in parts, from later on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.small import SMALL
from wavefold import Transformer, ops
from wavefold.cache import Sequence
from wavefold.checkpoint import random_model
from wavefold.model import Step, cpu_layers
from wavefold.ops import Arithmetic, Runtime, native

CONFIG = SMALL.replace(o_lora_rank=128)
LENGTH = 300
TOKENS = torch.randint(0, CONFIG.vocab_size, (LENGTH + 1,), generator=torch.Generator().manual_seed(3))
PARTS = (1, 5, 131, 1, 1, 30, 131)
needs_kernels = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")


@pytest.fixture(scope="module")
def exact() -> Transformer:
    model = random_model(CONFIG, 7, Arithmetic("exact", torch.float32))
    model.runtime = Runtime(threads=1, backend="reference")
    return model


@pytest.fixture(scope="module")
def packed() -> Transformer:
    return random_model(CONFIG, 7, Arithmetic("released"), packed=True)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The median over rows of the relative error: a routing that is nearly a tie may move single rows."""
    difference = (ours.double() - theirs.double()).flatten(1).norm(dim=1)
    return float((difference / theirs.double().flatten(1).norm(dim=1)).median())


def read(model: Transformer, sequence: Sequence, first: int, end: int) -> Tensor:
    """The streams of tokens first .. end, in steps of at most 100."""
    streams = model.new_streams(end - first)
    for at in range(first, end, 100):
        count = min(100, end - at)
        step = Step(TOKENS[at : at + count], [sequence], [count], (), range(count))
        model.forward_step(step, streams[at - first : at - first + count])
    return streams


def mtp_rows(model: Transformer, sequence: Sequence, streams: Tensor, parts: tuple[int, ...] = PARTS) -> Tensor:
    logits, first = [], sequence.num_mtp_tokens
    shift = first
    for count in parts:
        rows = slice(first - shift, first - shift + count)
        logits.append(model.extend_mtp(streams[rows], TOKENS[first + 1 : first + 1 + count], [sequence], [count]))
        first += count
    return torch.cat(logits)


def test_a_pass_gives_streams(exact: Transformer) -> None:
    with torch.no_grad():
        expected = exact.streams(TOKENS[None, :LENGTH])[0]
    sequence = exact.new_pool(512, poison=True).open()
    found = read(exact, sequence, 0, LENGTH)
    assert distance(found, expected) < 1e-5
    step = Step(TOKENS[:9], [exact.new_pool(128).open()], [9], (2,), (8, 0, 3, 3))
    streams = exact.new_streams(4)
    exact.forward_step(step, streams)
    assert distance(streams, expected[[8, 0, 3, 3]]) < 1e-5


@needs_kernels
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_one_call_gives_the_streams_of_layer_by_layer(
    packed: Transformer, monkeypatch: pytest.MonkeyPatch, batch_invariant: bool
) -> None:
    with ops.using(batch_invariant=batch_invariant):
        whole = read(packed, packed.new_pool(512, poison=True).open(), 0, LENGTH)
        monkeypatch.setattr(packed.experts.store, "structs", lambda layer: None)
        monkeypatch.setattr(packed, "_cpu", cpu_layers.CpuLayers())
        assert torch.equal(whole, read(packed, packed.new_pool(512, poison=True).open(), 0, LENGTH))
    with ops.using(backend="reference"):
        assert distance(whole, read(packed, packed.new_pool(512, poison=True).open(), 0, LENGTH)) < 1e-2


@needs_kernels
@pytest.mark.parametrize("arithmetic", ["released", "exact"])
def test_one_call_is_the_module(packed: Transformer, monkeypatch: pytest.MonkeyPatch, arithmetic: str) -> None:
    """Logits and the module's own streams; released: the references' bits but for single roundings."""
    monkeypatch.setattr(packed, "arithmetic", Arithmetic(arithmetic, torch.bfloat16))
    streams = read(packed, packed.new_pool(512).open(), 0, LENGTH)
    calls: list[int] = []
    mtp = native.mtp
    monkeypatch.setattr(native, "mtp", lambda *given: calls.append(1) or mtp(*given))  # type: ignore[func-returns-value]
    results: dict[str, tuple[Tensor, Tensor]] = {}
    for backend in ("auto", "reference"):
        with ops.using(backend=backend):
            sequence = packed.new_pool(512, poison=True, mtp=True).open()
            read(packed, sequence, 0, LENGTH)
            logits = mtp_rows(packed, sequence, streams, PARTS[:-1])
            after = packed.new_streams(3)
            count, first = LENGTH - sequence.num_mtp_tokens, sequence.num_mtp_tokens
            last = packed.extend_mtp(
                streams[first:], TOKENS[first + 1 : LENGTH + 1], [sequence], [count], [0, count - 1, 3], after
            )  # fmt: skip
            results[backend] = torch.cat((logits, last)), after
    assert len(calls) == len(PARTS)
    tolerance = 2e-3 if arithmetic == "released" else 2e-2
    for ours, theirs in zip(results["auto"], results["reference"], strict=True):
        assert distance(ours, theirs) < tolerance


@needs_kernels
def test_any_cut_and_company_gives_the_same_bits(packed: Transformer) -> None:
    """Two sequences in one call, in other parts, on more threads."""
    with ops.using(batch_invariant=True, threads=1):
        streams = read(packed, packed.new_pool(512).open(), 0, LENGTH)
        pool = packed.new_pool(1024, poison=True, mtp=True, draft_tokens=3)
        one, two = pool.open(), pool.open()
        read(packed, one, 0, LENGTH), read(packed, two, 0, LENGTH)
        expected = mtp_rows(packed, one, streams)
        one.close()
        one = pool.open()
        read(packed, one, 0, LENGTH)
    with ops.using(batch_invariant=True, threads=2):
        first = packed.extend_mtp(streams[:40], TOKENS[1:41], [one], [40])
        both = torch.cat((streams[40:240], streams[:240]))
        following = torch.cat((TOKENS[41:241], TOKENS[1:241]))
        logits = packed.extend_mtp(both, following, [one, two], [200, 240])
        last = packed.extend_mtp(streams[240:242], TOKENS[241:243], [two], [2])
    assert torch.equal(torch.cat((first, logits[:200])), expected[:240])
    assert torch.equal(torch.cat((logits[200:], last)), expected[:242])


@pytest.mark.parametrize("kind", ["exact", pytest.param("packed", marks=needs_kernels)])
def test_rows_from_later_on_are_those_of_all_rows(kind: str, request: pytest.FixtureRequest) -> None:
    """Once a window's rows are there. Before that they are those of a sequence that begins there."""
    model: Transformer = request.getfixturevalue(kind)
    pool = model.new_pool(1024, poison=True, mtp=True)
    full, late = pool.open(), pool.open()
    streams = read(model, full, 0, LENGTH)
    read(model, late, 0, LENGTH)
    expected = mtp_rows(model, full, streams, (150, 150))
    mtp_rows(model, late, streams, (20,))  # rows that must not be seen later
    late.skip_mtp(60)
    assert late.mtp_first == late.num_mtp_tokens == 60
    found = mtp_rows(model, late, streams[60:], (100, 1, 1, 138))
    tolerance = 1e-5 if kind == "exact" else 3e-2  # released: rows are rounded at another angle
    window = model.config.sliding_window
    assert distance(found[window - 1 :], expected[60 + window - 1 :]) < tolerance
    assert distance(found[: window - 1], expected[60 : 60 + window - 1]) > 2 * tolerance
    with pytest.raises(ValueError, match=r"skip_mtp\(299\) is not allowed; expected 300 to 300"):
        late.skip_mtp(299)


def test_a_step_back_before_the_first_row_leaves_none(exact: Transformer) -> None:
    pool = exact.new_pool(512, poison=True, mtp=True)
    sequence = pool.open()
    streams = read(exact, sequence, 0, 40)
    sequence.skip_mtp(36)
    mtp_rows(exact, sequence, streams[36:], (4,))
    sequence.rewind(2)
    assert (sequence.mtp_first, sequence.num_mtp_tokens) == (36, 37)
    sequence.rewind(8)
    assert (sequence.mtp_first, sequence.num_mtp_tokens) == (29, 29)
    fork = sequence.fork()
    assert (fork.mtp_first, fork.num_mtp_tokens) == (29, 29)
    mtp_rows(exact, sequence, streams[29:], (1,))


def test_long_passes_of_the_main_layers_leave_mtp_rows(exact: Transformer, packed: Transformer) -> None:
    """The MTP layers lag behind: what they have is there after a pass that fills all rings of the main layers."""
    for model in (exact, packed):
        streams = read(model, model.new_pool(512).open(), 0, LENGTH)
        pool = model.new_pool(1024, poison=True, mtp=True)
        results = []
        for cuts in ((LENGTH,), (120, 180)):
            sequence = pool.open()
            at = 0
            for count in cuts:
                model.extend(TOKENS[at : at + count], [sequence], [count])
                at += count
                if at == 120:
                    mtp_rows(model, sequence, streams, (120,))
            if not sequence.num_mtp_tokens:
                mtp_rows(model, sequence, streams, (120,))
            results.append(mtp_rows(model, sequence, streams[120:], (100,)))
        assert torch.equal(*results)


def test_guesses_run_ahead_and_are_forgotten(exact: Transformer) -> None:
    """Rows on the module's own streams; what comes after them is as if they had not been."""
    pool = exact.new_pool(512, poison=True, mtp=True, draft_tokens=4)
    sequence, other = pool.open(), pool.open()
    streams = read(exact, sequence, 0, 140)
    read(exact, other, 0, 140)
    after = exact.new_streams(1)
    with pytest.raises(ValueError, match="a count of 141 MTP tokens is not allowed; expected 1 to 140"):
        exact.extend_mtp(torch.cat((streams, streams[:1])), TOKENS[:141], [sequence], [141])
    logits = exact.extend_mtp(streams, TOKENS[1:141], [sequence], [140], [139], after)
    for _ in range(4):
        logits = exact.extend_mtp(after.clone(), logits.argmax(-1), [sequence], [1], [0], after, guessed=True)
    with pytest.raises(ValueError, match="expected 1 to 0"):
        exact.extend_mtp(after, logits.argmax(-1), [sequence], [1], guessed=True)
    assert logits.isfinite().all() and sequence.num_mtp_tokens == 144
    sequence.forget_mtp_guesses()
    assert sequence.num_mtp_tokens == 140
    mtp_rows(exact, other, streams, (140,))
    more = read(exact, sequence, 140, 150)
    read(exact, other, 140, 150)
    assert torch.equal(mtp_rows(exact, sequence, more, (1, 9)), mtp_rows(exact, other, more, (1, 9)))


def test_rows_that_are_not_there_are_refused(exact: Transformer) -> None:
    with pytest.raises(ValueError, match="streams_of row 4 is not allowed; expected 0 to 3"):
        Step(TOKENS[:4], [exact.new_pool(128).open()], [4], (), (4,))
