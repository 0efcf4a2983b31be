"""Exact float32 against transformers' DeepseekV4ForCausalLM, which we did not write: logits and every gradient.

Two programs that sum in another order may choose differently where two index entries, or two experts, score the same
to within rounding. Such near-ties are found in our own scores, counted, and left out together with what they can reach:
the later positions of their sequence.
"""

import functools
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'wavefold[test]'")

from transformers import DeepseekV4Config

import wavefold
from tests.transformers_bridge import EAGER, to_transformers, transformers_model
from wavefold import ModelConfig, Transformer, ops
from wavefold.checkpoint import random_model
from wavefold.config import RopeScaling
from wavefold.model.attention import Attention
from wavefold.model.batch import Batch
from wavefold.model.indexer import Indexer
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic

NORMS = sys.modules["wavefold.ops.reference.norm"]

SEEDS = range(26)
LENGTHS = (3, 4, 5, 127, 128, 129, 131, 132, 255, 256, 257, 259, 300, 1, 8, 77, 260, 290)

LOGITS_ERROR = 5e-5
"""Largest error of a logit over the RMS of the logits."""
GRADIENT_ERROR = 1e-4
"""Norm of a parameter's gradient error over the norm of its gradient."""
NUM_LOSSES = 3
"""Random losses whose gradients are compared together: in one alone, the terms of a scalar may cancel by chance."""
NEAR_TIE = 1e-5
"""Gap at the cut-off, over the size of the terms that are summed, below which a choice may differ."""
NEAR_TIE_SHARE = 1e-3


def random_config(seed: int) -> tuple[ModelConfig, int, int]:
    """A small odd architecture, batch size and length. Every eighth has the official head: 512, of which 64 rotated."""
    rng = random.Random(seed)
    length = LENGTHS[seed % len(LENGTHS)]
    official = seed % 8 == 4
    rope = 64 if official else rng.choice((8, 16))
    layers = rng.randint(2, 4)
    groups, experts = rng.randint(1, 3), rng.randint(3, 9)
    mtp = rng.randint(0, 1)
    yarn = RopeScaling(factor=rng.choice((4.0, 16.0)), original_max_position_embeddings=rng.choice((256, 65536)))
    config = ModelConfig(
        vocab_size=rng.randint(67, 131),
        hidden_size=rng.randint(33, 96),
        num_hidden_layers=layers,
        num_attention_heads=groups * rng.randint(1, 2),
        head_dim=512 if official else rope + rng.randint(17, 48),
        qk_rope_head_dim=rope,
        q_lora_rank=rng.randint(17, 48),
        o_groups=groups,
        o_lora_rank=rng.randint(9, 32),
        compress_ratios=(*(rng.choice((0, 4, 128)) for _ in range(layers)), *(0,) * mtp),
        index_n_heads=rng.randint(32, 40),
        index_head_dim=128 if official else 32,
        index_topk=rng.choice((1, 3, 5, 8, 16, 64)),
        n_routed_experts=experts,
        num_experts_per_tok=rng.randint(2, 3),
        moe_intermediate_size=rng.randint(17, 64),
        num_hash_layers=rng.randint(0, layers),
        routed_scaling_factor=rng.choice((1.0, 1.5, 2.5)),
        # A limit that binds gives the gradient a jump, which some activation of a long input comes too near.
        swiglu_limit=rng.choice((0.5, 1.0)) if length <= 8 else 10.0,
        hc_mult=rng.choice((2, 3, 4, 4)),
        hc_sinkhorn_iters=rng.choice((1, 3, 20)),
        hc_eps=rng.choice((1e-6, 1e-3)),
        rms_norm_eps=rng.choice((1e-6, 1e-3)),
        num_nextn_predict_layers=mtp,
        rope_theta=rng.choice((500.0, 10000.0)),
        compress_rope_theta=rng.choice((3000.0, 160000.0)),
        max_position_embeddings=int(yarn.factor * yarn.original_max_position_embeddings),
        rope_scaling=yarn,
        expert_dtype="fp8",  # FP4 wants even sizes; the weights here are float32 all the same
    )
    return config, rng.randint(2, 3) if length < 200 else rng.randint(1, 2), length


def random_tokens(config: ModelConfig, batch: int, length: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, (batch, length), generator=generator).to(device)


class NearTies:
    """Watches a forward pass's choices: `found` [B * S] says where one hung on less than NEAR_TIE."""

    def __init__(self) -> None:
        self._index: dict[int, list[Tensor]] = {}
        self._experts: list[Tensor] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        select, choose = Indexer.select, ops.choose_experts

        def watched_select(indexer, q, weights, visible, view, arithmetic):  # type: ignore[no-untyped-def]
            keys = view.entries("index", indexer.layer, 0, view.end // 4)
            scores = ops.index_scores(q, weights, keys, arithmetic).detach()
            size = ops.index_scores(q, weights.abs(), keys, arithmetic).detach()
            seen = torch.arange(scores.shape[1], device=q.device) < visible[:, None]
            near = near_tie(scores.masked_fill(~seen, -torch.inf), size.masked_fill(~seen, 0), indexer.topk)
            self._index.setdefault(indexer.layer, []).append(near)
            return select(indexer, q, weights, visible, view, arithmetic)

        def watched_choose(scores: Tensor, bias: Tensor, k: int) -> Tensor:
            biased = (scores + bias).detach()
            self._experts.append(near_tie(biased, biased.abs(), k))
            return choose(scores, bias, k)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Indexer, "select", watched_select)
            patch.setattr(ops, "choose_experts", watched_choose)
            yield

    def found(self, tokens: Tensor) -> Tensor:
        """[B, S] bool. A layer selects for one sequence after another, chunk by chunk: in the tokens' order."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        for near in [torch.cat(chunks) for chunks in self._index.values()] + self._experts:
            found |= near.view(tokens.shape)
        return found


def near_tie(scores: Tensor, size: Tensor, k: int) -> Tensor:
    """scores [n, m], -inf where not allowed, and the size of their terms -> [n]: is the next as good as the k-th?"""
    if scores.shape[1] <= k:
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    best = scores.topk(k + 1).values
    return best[:, k - 1] - best[:, k] < NEAR_TIE * size.amax(1)  # -inf - -inf is NaN: no tie


@dataclass(frozen=True)
class Comparison:
    """Errors against transformers; of `positions`, some are `near_ties` and those that none can reach were compared.

    `logits` by the way they were computed, `gradients` by transformers' parameter.
    """

    logits: dict[str, float]
    gradients: dict[str, float]
    without_gradient: set[str]
    near_ties: int
    positions: int
    compared: int


def measure(seed: int, device: torch.device) -> Comparison:
    """Forward (with and without a graph, which take different paths) and backward of one random configuration."""
    config, batch, length = random_config(seed)
    model = random_model(config, seed, Arithmetic("exact")).to(device)
    other = transformers_model(model)
    tokens = random_tokens(config, batch, length, seed, device)
    ties = NearTies()
    with torch.no_grad(), ties.watch():
        inferred = model(tokens)
    near = ties.found(tokens)
    kept = near.cumsum(1) == 0

    for _, parameter in official_tensors(model):
        parameter.requires_grad_(parameter.dtype.is_floating_point)
    trained, reference = model(tokens), other(tokens, use_cache=False).logits
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = [], []
    for _ in range(NUM_LOSSES):
        weight = torch.randn(reference.shape, generator=generator).to(device) * kept[..., None]
        ours.append(gradients_of(trained, weight, model))
        theirs.append(gradients_of(reference, weight, other))
    ours = [to_transformers(gradients) for gradients in ours]

    errors, without = {}, set()
    for name in theirs[0]:
        grad = torch.stack([gradients[name] for gradients in theirs])
        error = torch.stack([gradients[name] for gradients in ours]) - grad
        if grad.any() or error.any():
            errors[name] = float(error.norm() / grad.norm())
        else:
            without.add(name)
    logits = {"inferred": inferred, "trained": trained}
    logits_errors = {name: logits_error(value[kept], reference[kept]) for name, value in logits.items()}
    return Comparison(logits_errors, errors, without, int(near.sum()), near.numel(), int(kept.sum()))


compare = functools.cache(measure)


def gradients_of(logits: Tensor, weight: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of sum(logits * weight) in every parameter that can have one; zeros where none flows."""
    parameters = {name: p for name, p in official_tensors(model) if p.requires_grad}
    gradients = torch.autograd.grad(
        (logits * weight).sum(), list(parameters.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(parameters, gradients, strict=True))


def logits_error(ours: Tensor, reference: Tensor) -> float:
    """Largest error over the RMS of the reference."""
    return float((ours - reference).detach().abs().max() / reference.detach().square().mean().sqrt())


@pytest.mark.parametrize("seed", SEEDS)
def test_logits(seed: int, device: torch.device) -> None:
    result = compare(seed, device)
    assert result.compared > result.positions // 3, result
    assert max(result.logits.values()) < LOGITS_ERROR, result.logits


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients(seed: int, device: torch.device) -> None:
    result = compare(seed, device)
    wrong = {name: error for name, error in result.gradients.items() if not error < GRADIENT_ERROR}
    assert not wrong, wrong


@pytest.mark.parametrize("seed", SEEDS)
def test_only_choosers_have_no_gradient(seed: int, device: torch.device) -> None:
    """The indexer only chooses, and learns by a loss of its own; the rest are parts that this input does not reach."""
    config, batch, length = random_config(seed)
    for name in compare(seed, device).without_gradient:
        too_short = length < 128 and ".compressor." in name
        unused = ".experts." in name and batch * length * config.num_experts_per_tok < 64
        assert ".indexer." in name or too_short or unused, name


def test_near_ties_are_rare(device: torch.device) -> None:
    results = [compare(seed, device) for seed in SEEDS]
    assert sum(r.near_ties for r in results) < NEAR_TIE_SHARE * sum(r.positions for r in results)


def test_configurations_cover_the_architecture() -> None:
    configs = [random_config(seed) for seed in SEEDS]
    orders = {config.compress_ratios[: config.num_hidden_layers] for config, _, _ in configs}
    pairs = {pair for order in orders for pair in itertools.pairwise(order)}
    assert pairs == {(a, b) for a in (0, 4, 128) for b in (0, 4, 128)}
    assert {config.num_hash_layers for config, _, _ in configs} >= set(range(4))
    assert any(config.num_hash_layers == config.num_hidden_layers for config, _, _ in configs)
    assert {config.head_dim for config, _, _ in configs} > {512}
    binding = [c for c, _, length in configs if 4 in c.compress_ratios and length // 4 > c.index_topk]
    assert len(binding) >= 8


@pytest.mark.parametrize("seed", [4, 10, 20])
def test_config_json_means_the_same_to_transformers(seed: int, tmp_path: Path, device: torch.device) -> None:
    """What `save` writes as config.json, read by transformers alone, is the architecture that we compute."""
    config, batch, length = random_config(seed)
    model = random_model(config, seed, Arithmetic("exact")).to(device)
    wavefold.save(model, tmp_path / "model")
    read = DeepseekV4Config.from_pretrained(tmp_path / "model", **EAGER)
    assert read.qk_rope_head_dim == config.qk_rope_head_dim
    tokens = random_tokens(config, batch, length, seed, device)
    with torch.no_grad():
        reference = transformers_model(model, read)(tokens, use_cache=False).logits
        assert logits_error(model(tokens), reference) < LOGITS_ERROR


# -- mutants: what this comparison must not let through ----------------------------------------------------------------

Mutant = Callable[[pytest.MonkeyPatch, Transformer], None]


def wrapped(owner: object, name: str, make: Callable[..., Callable[..., Any]]) -> Mutant:
    """A mutant whose `owner.name` is make(the right one)."""
    return lambda patch, model: patch.setattr(owner, name, make(getattr(owner, name)))


def in_each(path: str, name: str, change: Callable[[Any], Any]) -> Mutant:
    """A mutant whose layers' `path.name` is change(the right one), where a layer has it."""

    def apply(patch: pytest.MonkeyPatch, model: Transformer) -> None:
        for module_name, module in model.named_modules():
            if module_name.endswith(path) and hasattr(module, name):
                value = getattr(module, name)
                setattr(module, name, torch.nn.Parameter(change(value)) if torch.is_tensor(value) else change(value))

    return apply


MUTANTS: dict[str, Mutant] = {
    "window of 129 tokens": in_each("attn", "window", lambda n: n + 1),
    "window of 127 tokens": in_each("attn", "window", lambda n: n - 1),
    "no sink": in_each("attn", "attn_sink", lambda sink: torch.full_like(sink, -torch.inf)),
    "query heads not normalised": wrapped(NORMS, "unit_rms_norm", lambda f: lambda q, *_: q),
    "output not rotated back": wrapped(
        ops, "rotate", lambda f: lambda x, *a, inverse=False: x if inverse else f(x, *a)
    ),
    "YaRN in window layers": wrapped(ops, "rope_frequencies", lambda f: lambda config, _, *a: f(config, True, *a)),
    "no YaRN": wrapped(ops, "rope_frequencies", lambda f: lambda config, _, *a: f(config, False, *a)),
    "heads of a group apart": wrapped(
        ops, "grouped_linear", lambda f: lambda x, w, g: f(x.unflatten(-1, (-1, g)).mT.flatten(-2), w, g)
    ),
    "CSA: one entry fewer visible": wrapped(
        Indexer, "select", lambda f: lambda self, q, w, visible, *a: f(self, q, w, (visible - 1).clamp(min=0), *a)
    ),
    "HCA: one entry fewer visible": wrapped(
        Attention, "_add_visible", lambda f: lambda self, softmax, visible, *a: f(self, softmax, visible - 1, *a)
    ),
    "one entry fewer chosen": in_each("indexer", "topk", lambda k: k - 1),
    "index scores without ReLU": wrapped(
        ops, "index_scores", lambda f: lambda q, w, keys, _: torch.einsum("nhd,nh,md->nm", q, w, keys)
    ),
    "previous and own half swapped": wrapped(
        ops, "compress_blocks", lambda f: lambda kv, z, ratio, overlap, *a: f(
            *((x.roll(x.shape[-1] // 2, -1) if overlap else x) for x in (kv, z)), ratio, overlap, *a)
    ),
    "compressor without ape": in_each("attn.compressor", "ape", torch.zeros_like),
    "indexer's compressor without ape": in_each("indexer.compressor", "ape", torch.zeros_like),
    "entry at its block's last token": wrapped(
        Batch, "entry_table", lambda f: lambda self, first, end, ratio: ops.rope_table(
            torch.arange(first, end) * ratio + ratio - 1, self.frequencies[True])
    ),
    "comb over its second index": wrapped(
        ops, "hc_expand", lambda f: lambda o, x, post, comb, a: f(o, x, post, comb.mT, a)
    ),
    "one Sinkhorn iteration fewer": in_each("", "iters", lambda n: n - 1),
    "weights of experts not normalised": wrapped(
        ops, "route_weights", lambda f: lambda scores, ids, scale: torch.gather(scores, 1, ids) * scale
    ),
    "balancing bias ignored": in_each("gate", "bias", torch.zeros_like),
    "SwiGLU without its limit": wrapped(
        ops, "expert", lambda f: lambda x, w1, w2, w3, route, limit, a: f(x, w1, w2, w3, route, torch.inf, a)
    ),
    "gate and up swapped": wrapped(ops, "expert", lambda f: lambda x, w1, w2, w3, *a: f(x, w3, w2, w1, *a)),
}  # fmt: skip


def mutant_model() -> tuple[Transformer, Tensor]:
    """A model with every kind of layer, where the top-k, the limit and the Sinkhorn iterations all matter."""
    config = random_config(0)[0].replace(
        num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), num_nextn_predict_layers=0, num_hash_layers=1,
        num_attention_heads=4, o_groups=2, index_topk=5, swiglu_limit=1.0, hc_sinkhorn_iters=3,
    )  # fmt: skip
    return random_model(config, 0, Arithmetic("exact")), random_tokens(config, 1, 300, 0, torch.device("cpu"))


@functools.cache
def mutants_reference() -> Tensor:
    model, tokens = mutant_model()
    with torch.no_grad():
        return transformers_model(model)(tokens, use_cache=False).logits


@pytest.mark.parametrize("name", ["nothing", *MUTANTS])
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = mutant_model()
    if name != "nothing":
        MUTANTS[name](monkeypatch, model)
    with torch.no_grad():
        error = logits_error(model(tokens), mutants_reference())
    assert error < LOGITS_ERROR if name == "nothing" else error > 100 * LOGITS_ERROR


@pytest.mark.parametrize(
    ("name", "parts"),
    [("route_weights", 1), ("compress_blocks", 2), ("hc_collapse", 2), ("hc_expand", 4), ("rotate", 1), ("expert", 1)],
)
def test_lost_gradient_is_caught(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each op in turn with one of its first inputs detached: the same logits, other gradients."""
    owner = sys.modules["wavefold.ops.hyper_connection"] if name == "hc_collapse" else ops
    right = getattr(owner, name)
    for part in range(parts):

        def wrong(*args: Any, part: int = part, **kwargs: Any) -> Any:
            return right(*args[:part], args[part].detach(), *args[part + 1 :], **kwargs)

        monkeypatch.setattr(owner, name, wrong)
        result = measure(3, torch.device("cpu"))
        assert max(result.logits.values()) < LOGITS_ERROR
        assert max(result.gradients.values()) > 100 * GRADIENT_ERROR, part
