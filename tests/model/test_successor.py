"""Layers as a successor of the architecture has them: shared entries, shared choices, a `pre` that comes late.

    layer   0        1        2         3             4         5         6         7
    reads   window   own      of 1      of 1          own 128   of 4      of 1      of 1
    chooses          own      as 1      own, keys of 1                    as 3      own, keys of 1

The whole model is held to a plain computation in this file, written from the formulas (report sections 2.1 to 2.3), and
prefill, chunks and single tokens to each other.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.small import SMALL
from wavefold.cache import CacheLayout, Pool, packed_records, plain_records
from wavefold.checkpoint import random_model
from wavefold.config import LayerSpec, ModelConfig
from wavefold.model import Transformer
from wavefold.model.official import official_tensors
from wavefold.ops import Arithmetic
from wavefold.plan.cache import block_bytes, packed, state_bytes
from wavefold.plan.tensors import tensor_kinds

WIDE = Arithmetic("exact", torch.float64)
SAME = 1e-12
"""In float64, by other operations."""
TOLERANCE = 2e-5
"""In float32: 5e-6 at most when this was written."""

RATIOS = (0, 4, 4, 4, 128, 128, 4, 4)
ENTRIES_OF = {2: 1, 3: 1, 5: 4, 6: 1, 7: 1}
CHOICE_OF = {2: 1, 6: 3}
LAYERS = tuple(
    LayerSpec(layer, 128, ratio, ratio == 4, ratio == 4, layer == 0, ENTRIES_OF.get(layer), CHOICE_OF.get(layer), True)
    for layer, ratio in enumerate(RATIOS)
)
KEYS = SMALL.replace(
    num_hidden_layers=len(RATIOS), compress_ratios=RATIOS, num_nextn_predict_layers=0, rope_scaling=None
)
CONFIG = KEYS.with_layers(LAYERS)
TOKENS = torch.randint(0, KEYS.vocab_size, (300,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model() -> Transformer:
    """In float64, to be compared with formulas: the cache's tails are float32."""
    return random_model(CONFIG, 0, WIDE)


@pytest.fixture(scope="module")
def logits(model: Transformer) -> Tensor:
    """Of the whole sequence at once, without a cache."""
    with torch.no_grad():
        return model.forward(TOKENS[None])[0]


@pytest.fixture(scope="module")
def cached() -> Transformer:
    """In float32."""
    return random_model(CONFIG, 0, Arithmetic("exact", torch.float32))


# -- the same by formula -----------------------------------------------------------------------------------------------


class Formula:
    """The model's logits in float64, one sequence, from its tensors and the layers' table alone."""

    def __init__(self, model: Transformer, config: ModelConfig, layers: tuple[LayerSpec, ...]):
        self.config, self.layers = config, layers
        self.tensors = {
            name: tensor if name.endswith("tid2eid") else tensor.double() for name, tensor in official_tensors(model)
        }
        self.entries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.choices: dict[int, Tensor] = {}

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T

    def norm(self, x: Tensor, name: str | None) -> Tensor:
        unit = x / (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return unit if name is None else unit * self.tensors[f"{name}.weight"]

    def rotate(self, x: Tensor, positions: Tensor, compressed: bool, turn: int = 1) -> Tensor:
        """x [n, ..., dim]: the last dims as complex numbers, times e^(i position frequency)."""
        dim = self.config.qk_rope_head_dim
        base = self.config.compress_rope_theta if compressed else self.config.rope_theta
        frequencies = (1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)).float()
        angles = (positions.float()[:, None] * frequencies).view(len(x), *(1,) * (x.dim() - 2), dim // 2)
        factors = torch.complex(angles.cos().double(), turn * angles.sin().double())
        pairs = torch.view_as_complex(x[..., -dim:].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat((x[..., :-dim], torch.view_as_real(pairs * factors).flatten(-2)), -1)

    def compress(self, h: Tensor, name: str, spec: LayerSpec) -> Tensor:
        """Entries before rotation: by channel, a softmax over the tokens of a block, or of two."""
        ratio = spec.ratio
        blocks = len(h) // ratio
        kv = self.linear(h, f"{name}.wkv")[: blocks * ratio].unflatten(0, (blocks, ratio))
        score = self.linear(h, f"{name}.wgate")[: blocks * ratio].unflatten(0, (blocks, ratio))
        score = score + self.tensors[f"{name}.ape"]
        entries = []
        for block in range(blocks):
            rows, scores = kv[block], score[block]
            if spec.overlap:
                half = kv.shape[-1] // 2
                rows, scores = rows[:, half:], scores[:, half:]
                if block:
                    rows = torch.cat((kv[block - 1][:, :half], rows))
                    scores = torch.cat((score[block - 1][:, :half], scores))
            entries.append((scores.softmax(0) * rows).sum(0))
        return self.rotate(self.norm(torch.stack(entries), f"{name}.norm"), torch.arange(blocks) * ratio, True)

    def choose(self, h: Tensor, qr: Tensor, name: str, spec: LayerSpec) -> Tensor:
        """[n, entries] bool: the visible ones with the best scores; the earlier of equal ones (0 is common)."""
        heads, dim = self.config.index_n_heads, self.config.index_head_dim
        positions = torch.arange(len(h))
        q = self.rotate(self.linear(qr, f"{name}.wq_b").unflatten(-1, (heads, dim)), positions, True)
        weights = self.linear(h, f"{name}.weights_proj") * (heads * dim) ** -0.5
        keys = self.keys[spec.entries_layer]
        scores = (torch.einsum("nhd,md->nhm", q, keys).relu() * weights[..., None]).sum(1)
        visible = torch.arange(len(keys)) < ((positions + 1) // spec.ratio)[:, None]
        order = scores.masked_fill(~visible, -math.inf).sort(dim=-1, descending=True, stable=True).indices
        best = order[:, : self.config.index_topk]
        return torch.zeros_like(visible).scatter_(1, best, True) & visible

    def attention(self, x: Tensor, spec: LayerSpec) -> Tensor:
        config, name, positions = self.config, f"layers.{spec.layer}.attn", torch.arange(len(x))
        h = self.norm(x, f"layers.{spec.layer}.attn_norm")
        qr = self.norm(self.linear(h, f"{name}.wq_a"), f"{name}.q_norm")
        q = self.linear(qr, f"{name}.wq_b").unflatten(-1, (config.num_attention_heads, config.head_dim))
        q = self.rotate(self.norm(q, None), positions, spec.compressed)
        kv = self.rotate(self.norm(self.linear(h, f"{name}.wkv"), f"{name}.kv_norm"), positions, spec.compressed)
        age = positions[:, None] - positions
        seen = (age >= 0) & (age < spec.window)
        if spec.compressed:
            if spec.entries_of is None:
                self.entries[spec.layer] = self.compress(h, f"{name}.compressor", spec)
                if spec.indexed:
                    self.keys[spec.layer] = self.compress(h, f"{name}.indexer.compressor", spec)
            entries = self.entries[spec.entries_layer]
            attended = torch.arange(len(entries)) < ((positions + 1) // spec.ratio)[:, None]
            if spec.indexed and spec.choice_of is None:
                self.choices[spec.layer] = self.choose(h, qr, f"{name}.indexer", spec)
            if spec.indexed:
                attended = self.choices[spec.layer if spec.choice_of is None else spec.choice_of]
            kv, seen = torch.cat((kv, entries)), torch.cat((seen, attended), 1)
        scores = torch.einsum("nhc,mc->hnm", q, kv) * config.head_dim**-0.5
        sink = self.tensors[f"{name}.attn_sink"][:, None, None].expand(-1, len(x), 1)
        weights = torch.cat((scores.masked_fill(~seen, -math.inf), sink), -1).softmax(-1)[..., :-1]
        o = self.rotate(torch.einsum("hnm,mc->nhc", weights, kv), positions, spec.compressed, turn=-1)
        groups = o.flatten(1).unflatten(-1, (config.o_groups, -1))
        wo_a = self.tensors[f"{name}.wo_a.weight"].unflatten(0, (config.o_groups, -1))
        return self.linear(torch.einsum("ngi,goi->ngo", groups, wo_a).flatten(1), f"{name}.wo_b")

    def expert(self, h: Tensor, name: str, route: Tensor | float) -> Tensor:
        limit = self.config.swiglu_limit
        gate, up = self.linear(h, f"{name}.w1").clamp(max=limit), self.linear(h, f"{name}.w3").clamp(-limit, limit)
        return self.linear(F.silu(gate) * up * route, f"{name}.w2")

    def experts(self, x: Tensor, spec: LayerSpec) -> Tensor:
        name = f"layers.{spec.layer}.ffn"
        h = self.norm(x, f"layers.{spec.layer}.ffn_norm")
        scores = F.softplus(self.linear(h, f"{name}.gate")).sqrt()
        if spec.hashed:
            ids = self.tensors[f"{name}.gate.tid2eid"][TOKENS].long()
        else:
            ids = (scores + self.tensors[f"{name}.gate.bias"]).topk(self.config.num_experts_per_tok).indices
        weights = scores.gather(1, ids)
        weights = weights / weights.sum(-1, keepdim=True) * self.config.routed_scaling_factor
        routes = torch.zeros_like(scores).scatter_(1, ids, weights)
        out = self.expert(h, f"{name}.shared_experts", 1.0)
        return out + sum(
            self.expert(h, f"{name}.experts.{number}", routes[:, number, None]) for number in range(routes.shape[1])
        )

    def mixer(self, streams: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
        config, n = self.config, self.config.hc_mult
        fn, base, scale = (self.tensors[f"{name}_{part}"] for part in ("fn", "base", "scale"))
        mixes = self.norm(streams.flatten(1), None) @ fn.T
        pre = (mixes[:, :n] * scale[0] + base[:n]).sigmoid() + config.hc_eps
        post = 2 * (mixes[:, n : 2 * n] * scale[1] + base[n : 2 * n]).sigmoid()
        comb = (mixes[:, 2 * n :] * scale[2] + base[2 * n :]).unflatten(-1, (n, n)).softmax(-1) + config.hc_eps
        for step in range(2 * config.hc_sinkhorn_iters - 1):  # columns first and last
            comb = comb / (comb.sum(1 + step % 2, keepdim=True) + config.hc_eps)
        return pre, post, comb

    def logits(self) -> Tensor:
        streams = self.tensors["embed.weight"][TOKENS][:, None].repeat(1, self.config.hc_mult, 1)
        late = torch.zeros(len(TOKENS), self.config.hc_mult, dtype=torch.float64)
        late[:, 0] = 1
        for spec in self.layers:
            for prefix, sublayer in (("hc_attn", self.attention), ("hc_ffn", self.experts)):
                pre, post, comb = self.mixer(streams, f"layers.{spec.layer}.{prefix}")
                mixed = ((late if spec.late_pre else pre)[..., None] * streams).sum(1)
                streams = post[..., None] * sublayer(mixed, spec)[:, None] + torch.einsum("njk,njd->nkd", comb, streams)
                late = pre
        return self.linear(self.norm((late[..., None] * streams).sum(1), "norm"), "head")


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the RMS of what is expected."""
    return float((got - expected).abs().max() / expected.square().mean().sqrt())


def test_the_model_computes_the_formulas(model: Transformer, logits: Tensor) -> None:
    assert difference(logits, Formula(model, CONFIG, LAYERS).logits()) < SAME


@pytest.mark.parametrize(
    ("layer", "change"),
    [(6, {"choice_of": 1}), (7, {"choice_of": 3}), (2, {"late_pre": False}), (1, {"overlap": False})],
)
def test_other_layers_would_show(model: Transformer, logits: Tensor, layer: int, change: dict[str, object]) -> None:
    """The comparison has teeth: one field of one layer changes the result."""
    if "overlap" in change:  # as wide as the weights are: the own block alone
        other = Formula(model, CONFIG, LAYERS)
        compress = other.compress
        other.compress = lambda h, name, spec: compress(h, name, spec).roll(1, 0)  # type: ignore[method-assign]
    else:
        changed = LAYERS[layer]._replace(**change)
        other = Formula(model, CONFIG, (*LAYERS[:layer], changed, *LAYERS[layer + 1 :]))
    assert difference(other.logits(), logits) > 1e-3


# -- cache -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths", [[300], [1] * 300, [150, 150], [131, *[1] * 9, 160], [3, 1, 124, 1, 127, 44]], ids=lambda x: str(len(x))
)
def test_any_cut_gives_the_same(cached: Transformer, logits: Tensor, lengths: list[int]) -> None:
    sequence = cached.new_pool(len(TOKENS), poison=True).open()
    hidden = torch.cat([cached.extend(part, [sequence], [len(part)]) for part in TOKENS.split(lengths)])
    sequence.pool.check_integrity()
    assert difference(cached.logits(hidden).double(), logits) < TOLERANCE


def test_two_sequences_at_once(cached: Transformer, logits: Tensor) -> None:
    """A choice is handed on within its own sequence."""
    pool = cached.new_pool(600, poison=True)
    first, second = pool.open(), pool.open()
    cached.extend(TOKENS[:200], [first], [200])
    both = torch.cat((TOKENS[200:], TOKENS[:37]))
    got = cached.logits(cached.extend(both, [first, second], [100, 37])).double()
    assert difference(got, torch.cat((logits[200:], logits[:37]))) < TOLERANCE


def test_only_makers_have_rows() -> None:
    layout = CacheLayout(CONFIG, packed_records(CONFIG))
    assert {kind.layers for kind in layout.row_kinds} == {(1,), (4,)}
    assert {kind.layers for kind in layout.tail_kinds} == {(1,), (4,)}
    assert layout.block_bytes == block_bytes(CONFIG, packed(CONFIG)) < CacheLayout(KEYS, layout.records).block_bytes
    assert layout.state_bytes == state_bytes(CONFIG, packed(CONFIG))


def test_a_pool_of_other_layers_is_refused(cached: Transformer) -> None:
    sequence = Pool(KEYS, 128, cached.records).open()
    with pytest.raises(ValueError, match="a pool of another model"):
        cached.extend(TOKENS[:3], [sequence], [3])


def test_the_packed_cache_holds_the_same_bits() -> None:
    model = random_model(CONFIG, 0, Arithmetic("released", torch.bfloat16), packed=True)
    outputs = []
    for records in (None, plain_records(CONFIG, torch.bfloat16)):
        sequence = model.new_pool(len(TOKENS), records, poison=True).open()
        parts = TOKENS.split([200, 60, *[1] * 40])
        outputs.append(torch.cat([model.extend(part, [sequence], [len(part)]) for part in parts]))
    assert model.records == packed_records(CONFIG)
    assert torch.equal(*outputs)
    assert not model.runs_on_kernels  # whole layers in kernels need nothing of one another


# -- what the layers are -----------------------------------------------------------------------------------------------


def test_tensors_are_those_of_the_formulas(model: Transformer) -> None:
    names = [name for name, _ in official_tensors(model)]
    owners = {name.split(".")[1] for name in names if ".compressor.wkv" in name}
    assert owners == {"1", "4"}
    assert {name.split(".")[1] for name in names if ".indexer.wq_b" in name} == {"1", "3", "7"}
    assert not any(name.startswith("hc_head") for name in names)
    values = sum(kind.values for kind in tensor_kinds(CONFIG))
    assert sum(tensor.numel() for _, tensor in official_tensors(model)) == values


def test_a_test_may_pass_layers() -> None:
    model = Transformer(KEYS, WIDE, layers=LAYERS)
    assert model.config.layers == LAYERS
    assert KEYS.layers != LAYERS
    assert all(spec.alone for spec in KEYS.layers)


def test_training_is_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="late_pre"):
        model.streams(TOKENS[None])


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        (2, {"layer": 3}, "layer 3 at place 2"),
        (2, {"entries_of": 2}, "entries_of = 2"),
        (2, {"entries_of": 4}, "entries_of = 4"),
        (6, {"entries_of": 2}, "entries_of = 2"),
        (6, {"entries_of": 4}, "a compressor of ratio 4"),
        (6, {"choice_of": 2}, "choice_of = 2"),
        (6, {"choice_of": 7}, "choice_of = 7"),
        (6, {"entries_of": None}, "choice_of = 3"),
        (6, {"late_pre": False}, "late_pre in some layers"),
    ],
)
def test_layers_that_do_not_fit(layer: int, change: dict[str, object], message: str) -> None:
    layers = (*LAYERS[:layer], LAYERS[layer]._replace(**change), *LAYERS[layer + 1 :])
    with pytest.raises(ValueError, match=message):
        KEYS.with_layers(layers)
    with pytest.raises(ValueError, match="one for each of 8 blocks"):
        KEYS.with_layers(LAYERS[:7])
