"""Whole layers by the CPU kernels: the references' numbers, and one sequence whatever way its tokens arrive.

Held against `Block.forward` on the references, which other tests hold against transformers and the official code. With
batch-invariant sums, every way of cutting and sharing must give equal bytes: hidden states and caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from tests.small import SMALL
from wavefold import ops
from wavefold.cache import PagedView, packed_records, plain_records
from wavefold.checkpoint.random import random_model
from wavefold.config import CSA, ModelConfig
from wavefold.model import Step, Transformer, cpu_layers, transformer
from wavefold.model.batch import Batch
from wavefold.ops import Arithmetic, native

pytestmark = pytest.mark.skipif(not native.available(), reason="the CPU kernels are not built")

CONFIG = SMALL.replace(
    num_hidden_layers=5, hidden_size=96, head_dim=96, compress_ratios=(0, 4, 128, 4, 128, 0), index_n_heads=8,
    num_hash_layers=2, q_lora_rank=48, o_lora_rank=128, index_topk=16,
)  # fmt: skip
ODD = SMALL.replace(
    num_hidden_layers=3, hidden_size=60, num_attention_heads=3, o_groups=3, o_lora_rank=128, head_dim=80, hc_mult=3,
    q_lora_rank=34, sliding_window=128, n_routed_experts=5, num_experts_per_tok=3,
    moe_intermediate_size=44,
)  # fmt: skip
LENGTH = 396
TOKENS = torch.randint(0, CONFIG.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(5))
ARITHMETICS = {name: Arithmetic(name, torch.bfloat16) for name in ("exact", "released")}
CUTS = [[1] * LENGTH, [LENGTH - 1, 1], [127, 1, 1, 267], [128, 128, 140], [3, 5, 144, 145, 99], [13] * 30 + [6]]


def model_of(config: ModelConfig, arithmetic: str) -> Transformer:
    return random_model(config, 1, ARITHMETICS[arithmetic], packed=True)


@pytest.fixture(scope="module", params=list(ARITHMETICS))
def model(request: pytest.FixtureRequest) -> Transformer:
    return model_of(CONFIG, request.param)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    with ops.using(backend="auto"):
        yield


@pytest.fixture
def invariant() -> Iterator[None]:
    with ops.using(batch_invariant=True):
        yield


def rows_of(view: PagedView, layer: int, ratio: int) -> dict[str, Tensor]:
    """What a layer's caches hold after a pass that was not committed: rings to be written, entries and keys."""
    kinds = {0: (), CSA: ("csa", "index")}.get(ratio, ("hca",))
    return {kind: view.entries(kind, layer, 0, view.end // ratio).float() for kind in kinds if view.end >= ratio}


def layer_by_layer(model: Transformer, length: int, backend: str) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Each layer alone, on the same random streams: what it makes of them, and its rows."""
    config, arithmetic = model.config, model.arithmetic
    for number, block in enumerate(model.layers):
        view = PagedView(model.new_pool(length, poison=True).open(), length)
        view.sequence.table[:] = view.pool.blocks.allocate(view.pool.layout.num_blocks(length))
        view.places = view.sequence.places
        batch = Batch.of(config, TOKENS[0, :length], [view])
        generator = torch.Generator().manual_seed(number)
        streams = torch.randn(length, config.hc_mult, config.hidden_size, generator=generator).bfloat16()
        with torch.no_grad(), ops.using(backend=backend):
            if backend == "reference":
                out = block(streams.to(arithmetic.dtype), batch, model.experts, arithmetic)
            else:
                layers = [cpu_layers.CpuLayer(block, config, arithmetic)]
                out = cpu_layers.run_layers(layers, streams.clone(), batch, model.experts, config, arithmetic)
        yield out, rows_of(view, number, config.compress_ratios[number])


@pytest.mark.parametrize("length", [1, 5, 131, LENGTH])
@pytest.mark.parametrize("config", [CONFIG, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("arithmetic", list(ARITHMETICS))
def test_a_layer_is_the_references(arithmetic: str, config: ModelConfig, length: int) -> None:
    """Released: the references' bits but for single roundings. Exact: no further from float64 than the references in
    bfloat16 are. A choice of entries or experts that is nearly a tie may move single tokens."""
    model = model_of(config, arithmetic)
    margin = 1.1 if length > 100 else 1.5  # the median of a few rows is a noisy one
    ours, theirs = (list(layer_by_layer(model, length, backend)) for backend in ("auto", "reference"))
    model.arithmetic = Arithmetic("exact", torch.float64)
    true = list(layer_by_layer(model, length, "reference"))
    layers = zip(ours, theirs, true, strict=True)
    for number, ((our, our_rows), (their, their_rows), (exact, exact_rows)) in enumerate(layers):
        apart, off, allowed = errors(our, their), errors(our, exact), errors(their, exact)
        print(f"layer {number}: {apart:.1e} from the references; from float64 {off:.1e}, theirs {allowed:.1e}")
        assert apart <= 2e-4 if arithmetic == "released" else off <= margin * allowed
        assert our_rows.keys() == their_rows.keys()
        for kind, rows in our_rows.items():
            apart, off = errors(rows, their_rows[kind]), errors(rows, exact_rows[kind])
            allowed = errors(their_rows[kind], exact_rows[kind])
            assert apart <= 1e-3 if arithmetic == "released" else off <= margin * allowed, (number, kind, apart, off)


def errors(ours: Tensor, theirs: Tensor) -> float:
    """The median over rows of the relative error."""
    difference = (ours.double() - theirs.double()).flatten(1).norm(dim=1)
    return float((difference / theirs.double().flatten(1).norm(dim=1)).median())


def run(model: Transformer, tokens: Tensor, cuts: Sequence[int], **pool: object) -> Tensor:
    """Hidden states of one sequence, through a poisoned pool in runs of these lengths."""
    sequence = model.new_pool(len(tokens), poison=True, **pool).open()  # type: ignore[arg-type]
    hidden = [model.extend(part, [sequence], [len(part)]) for part in tokens.split(list(cuts))]
    assert all(part.isfinite().all() for part in hidden)
    return torch.cat(hidden)


@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts[:4])))
def test_cuts_change_no_bit(model: Transformer, cuts: list[int], invariant: None) -> None:
    assert torch.equal(run(model, TOKENS[0], cuts), run(model, TOKENS[0], [LENGTH]))


@pytest.mark.parametrize("topk", [64, 96])
@pytest.mark.parametrize("arithmetic", list(ARITHMETICS))
def test_a_pass_that_ends_beyond_the_indexs_choice_changes_no_bit(arithmetic: str, topk: int, invariant: None) -> None:
    """Up to `topk` entries all are attended, then the best: a token must not see which of the two its pass came to."""
    model = model_of(CONFIG.replace(index_topk=topk), arithmetic)
    for cuts in ([100] * 3 + [96], [4 * topk, LENGTH - 4 * topk], [1] * LENGTH):
        assert torch.equal(run(model, TOKENS[0], cuts), run(model, TOKENS[0], [LENGTH]))


def test_passes_change_no_bit(model: Transformer, invariant: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(model, TOKENS[0], [LENGTH])
    monkeypatch.setattr(transformer, "PASS_TOKENS", 100)
    assert torch.equal(run(model, TOKENS[0], [LENGTH]), expected)


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 130, 1), (64, 8, 3)])
def test_a_batch_changes_no_bit(model: Transformer, counts: tuple[int, ...], invariant: None) -> None:
    """Three sequences together, at positions of their own, are three sequences alone."""
    pool = model.new_pool(3 * LENGTH, poison=True)
    starts = (0, 127, 250)
    sequences = [pool.open() for _ in counts]
    for sequence, tokens, start in zip(sequences, TOKENS, starts, strict=True):
        if start:
            model.extend(tokens[:start], [sequence], [start])
    parts = [tokens[start : start + count] for tokens, start, count in zip(TOKENS, starts, counts, strict=True)]
    together = model.extend(torch.cat(parts), sequences, counts).split(counts)
    for tokens, start, count, hidden in zip(TOKENS, starts, counts, together, strict=True):
        alone = run(model, tokens[: start + count], [start, count] if start else [count])
        assert torch.equal(hidden, alone[start:])


def test_forks_and_rewinds_change_no_bit(model: Transformer, invariant: None) -> None:
    """Back and forth by up to 16 tokens, one at a time and several, beside a fork that goes another way."""
    expected = run(model, TOKENS[0], [LENGTH])
    sequence = model.new_pool(4 * LENGTH, poison=True).open()
    model.extend(TOKENS[0, :250], [sequence], [250])
    for back in (1, 16, 7, 16):
        other = sequence.fork()
        model.extend(TOKENS[1, :40], [other], [40])
        other.close()
        for token in TOKENS[2, :9]:  # tokens that will have been none
            model.extend(token[None], [sequence], [1])
        sequence.rewind(9)
        at = sequence.num_tokens
        ahead = model.extend(TOKENS[0, at : at + back], [sequence], [back])
        assert torch.equal(ahead, expected[at : at + back])
        sequence.rewind(min(back, 7))
        at = sequence.num_tokens
        assert torch.equal(model.extend(TOKENS[0, at : at + 12], [sequence], [12]), expected[at : at + 12])


def interrupt(name: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop in, or for the call of a whole pass right behind, the native call `name` number `after`."""
    original, calls = getattr(native, name), []

    def stopping(*given: object) -> object:
        calls.append(1)
        result = original(*given) if name == "forward" else None
        if len(calls) == after:
            raise KeyboardInterrupt
        return result if name == "forward" else original(*given)

    monkeypatch.setattr(native, name, stopping)


@pytest.mark.parametrize("resident", [True, False])
def test_an_interrupted_pass_leaves_no_trace(
    model: Transformer, resident: bool, invariant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the one call of a pass or, where experts are elsewhere, between layers; and gone on with."""
    expected = run(model, TOKENS[0], [LENGTH])
    if not resident:
        experts_elsewhere(model, monkeypatch)
    sequence = model.new_pool(LENGTH, poison=True).open()
    model.extend(TOKENS[0, :300], [sequence], [300])
    for count in (1, 20, 1):
        with monkeypatch.context() as patch:
            interrupt(*(("forward", 1) if resident else ("experts", 4)), patch)
            with pytest.raises(KeyboardInterrupt):
                model.extend(TOKENS[2, :count], [sequence], [count])
        at = sequence.num_tokens
        if at > 310:
            sequence.rewind(10)
            at -= 10
        assert torch.equal(model.extend(TOKENS[0, at : at + 13], [sequence], [13]), expected[at : at + 13])


def experts_elsewhere(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the store does not say where all experts lie: they are asked for layer by layer."""
    monkeypatch.setattr(model.experts.store, "structs", lambda layer: None)
    monkeypatch.setattr(model, "_cpu", cpu_layers.CpuLayers())


def test_one_call_and_layer_by_layer_are_the_same_bits(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and steps; of resident experts one native call a pass."""
    cuts = [200, 1, 1, 1, 30, 163]
    forward, calls = native.forward, []
    monkeypatch.setattr(native, "forward", lambda *given: calls.append(1) or forward(*given))  # type: ignore[func-returns-value]
    expected = run(model, TOKENS[0], cuts)
    assert len(calls) == len(cuts)
    experts_elsewhere(model, monkeypatch)
    assert torch.equal(run(model, TOKENS[0], cuts), expected)
    assert len(calls) == len(cuts)


def test_a_step_gives_the_logits_that_are_wanted(model: Transformer) -> None:
    """Of some rows of several sequences: those of the hidden states that `extend` gives."""
    pool, other = model.new_pool(1024), model.new_pool(1024)
    step = Step(TOKENS[0, :50], [pool.open(), pool.open()], [30, 20], [29, 49, 3])
    logits = model.forward_step(step)
    hidden = model.extend(TOKENS[0, :50], [other.open(), other.open()], [30, 20])
    assert torch.equal(logits, model.logits(hidden[[29, 49, 3]]))
    with pytest.raises(ValueError, match="wanted row 50 is not allowed; expected 0 to 49"):
        Step(TOKENS[0, :50], step.sequences, [30, 20], [50])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(model: Transformer, threads: int) -> None:
    cuts = [200, 1, 1, 1, 30, 163]
    expected = run(model, TOKENS[0], cuts)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(run(model, TOKENS[0], cuts), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", ops.isas())
def test_each_instruction_set_agrees(isa: str) -> None:
    model = model_of(CONFIG, "exact")
    with ops.using(backend="reference"):
        expected = model.logits(run(model, TOKENS[0], [LENGTH]))
    with ops.using(isa=isa):
        logits = model.logits(run(model, TOKENS[0], [300, *[1] * 96]))
    p, q = expected.double().log_softmax(-1), logits.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    print(f"{isa}: mean KL to the references {kl.mean():.1e}")
    assert kl.mean() < 5e-3


def test_records_of_either_kind_serve(invariant: None) -> None:
    """Released rows are kept unchanged by packed records, exact ones by bfloat16: packing the former changes no bit."""
    model = model_of(CONFIG, "released")
    plain = plain_records(CONFIG, torch.bfloat16)
    assert torch.equal(run(model, TOKENS[0], [200, 1, 195], records=plain), run(model, TOKENS[0], [LENGTH]))
    exact = model_of(CONFIG, "exact")
    assert run(exact, TOKENS[0], [200, 1, 195], records=packed_records(CONFIG)).isfinite().all()


def test_what_the_kernels_do_not_take_goes_to_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 activations, records that they do not read, norms that were not stored in bfloat16."""
    monkeypatch.setattr(transformer, "run_layers", lambda *_: pytest.fail("the kernels were called"))
    run(random_model(CONFIG, 1, Arithmetic("exact")), TOKENS[0, :9], [9])
    exact = model_of(CONFIG, "exact")
    run(exact, TOKENS[0, :9], [9], records=plain_records(CONFIG, torch.float32))
    exact.layers[1].attn_norm.float()
    run(exact, TOKENS[0, :9], [9])


def test_new_parameters_are_seen() -> None:
    """A weight that takes another's place after a pass is the one that the next pass uses."""
    model = model_of(CONFIG, "exact")
    before = run(model, TOKENS[0, :40], [40])
    attention = model.layers[1].attn
    attention.wkv.weight = torch.nn.Parameter(attention.wkv.weight.flip(0), requires_grad=False)
    after = run(model, TOKENS[0, :40], [40])
    with ops.using(backend="reference"):
        expected = run(model, TOKENS[0, :40], [40])
    assert (after - expected).norm() < 0.1 * (before - expected).norm()


def test_a_token_may_name_an_expert_twice() -> None:
    """Tables of a hash layer are not bound to name different experts."""
    model = model_of(CONFIG, "exact")
    model.layers[0].ffn.gate.tid2eid[:, 1] = model.layers[0].ffn.gate.tid2eid[:, 0]
    for cuts in ([1] * 3, [3], [40]):
        hidden = run(model, TOKENS[0, : sum(cuts)], cuts)
        with ops.using(backend="reference"):
            expected = run(model, TOKENS[0, : sum(cuts)], cuts)
        assert errors(hidden, expected) < 0.1


def test_another_arithmetic_is_seen() -> None:
    """A model that is told to compute otherwise does so in its next pass."""
    model = model_of(CONFIG, "exact")
    run(model, TOKENS[0, :40], [40])
    model.arithmetic = ARITHMETICS["released"]
    assert torch.equal(run(model, TOKENS[0, :40], [40]), run(model_of(CONFIG, "released"), TOKENS[0, :40], [40]))


def step(model: Transformer, sequence: Sequence) -> Tensor:
    return model.forward_step(Step(TOKENS[0, :1], [sequence], [1], [0]))


REPLACEMENTS: dict[str, Callable[[Transformer, Transformer], None]] = {
    "parameter": lambda model, other: setattr(model.layers[0].attn.wq_a, "weight", other.layers[0].attn.wq_a.weight),
    "its memory": lambda model, other: setattr(model.head.weight, "data", other.head.weight.data),
    "module": lambda model, other: setattr(model.layers[1].attn, "wq_a", other.layers[1].attn.wq_a),
    "head": lambda model, other: setattr(model, "head", other.head),
    "layer": lambda model, other: model.layers.__setitem__(0, other.layers[0]),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_what_is_replaced_between_steps_counts_at_once(name: str) -> None:
    """The next step, and the next prompt, are those of a model that had it from the start."""
    model, fresh, other = (random_model(CONFIG, seed, ARITHMETICS["exact"], packed=True) for seed in (1, 1, 2))
    REPLACEMENTS[name](fresh, other)
    sequence = model.new_pool(1024).open()
    model.extend(TOKENS[0, :60], [sequence], [60])
    step(model, sequence)
    before = step(model, sequence.fork())
    REPLACEMENTS[name](model, other)
    with ops.using(backend="reference"):
        expected = step(model, sequence.fork())
    after = step(model, sequence.fork())
    assert (after - expected).norm() < 0.1 * (before - expected).norm()
    pools = model.new_pool(1024), fresh.new_pool(1024)
    assert torch.equal(
        *(m.extend(TOKENS[1, :60], [pool.open()], [60]) for m, pool in zip((model, fresh), pools, strict=True))
    )


def test_models_leave_each_other_s_structures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are built once for each of two models in turns, and not again for modules that others register."""
    makes: list[Transformer] = []
    make = cpu_layers.CpuLayers._make
    monkeypatch.setattr(cpu_layers.CpuLayers, "_make", lambda self, model: makes.append(model) or make(self, model))
    models = [random_model(CONFIG, seed, ARITHMETICS["released"], packed=True) for seed in (1, 2)]
    sequences = [model.new_pool(256).open() for model in models]
    for _ in range(3):
        for model, sequence in zip(models, sequences, strict=True):
            step(model, sequence)
        torch.nn.Linear(2, 2)
    assert makes == models


def test_torch_s_default_dtype_is_no_concern_of_the_kernels() -> None:
    model = model_of(CONFIG, "released")
    sequence = model.new_pool(1024).open()
    model.extend(TOKENS[0, :60], [sequence], [60])
    expected = step(model, sequence.fork())
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(step(model, sequence.fork()), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["attn.q_norm.weight", "attn.attn_sink", "attn_norm.weight", "hc_attn_base"])
def test_a_vector_of_another_size_is_refused(name: str) -> None:
    model = model_of(CONFIG, "released")
    owner, _, last = name.rpartition(".")
    parameter = model.layers[0].get_parameter(name)
    setattr(model.layers[0].get_submodule(owner), last, torch.nn.Parameter(parameter[:1].clone(), requires_grad=False))
    with pytest.raises(ValueError, match=rf"layer 0: {name} of shape \[1\] is not allowed"):
        model.extend(TOKENS[0, :6], [model.new_pool(128).open()], [6])
