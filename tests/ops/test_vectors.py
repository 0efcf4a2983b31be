"""Single operations against the official code's recorded values: see tests/vectors/ops/README.md.

tests/quant covers the number formats of the same file. The last part holds the reading of the architecture against the
specification's minimal vectors: visibility, what an entry is made of, Sinkhorn, YaRN, nibble order.
"""

import itertools

import pytest
import torch
from torch import Tensor

from tests.checks import EXACT, RELEASED, assert_single_steps, op_vectors
from wavefold import ModelConfig, ops, quant
from wavefold.cache import FreshView, View
from wavefold.checkpoint import random_model
from wavefold.config import CSA, HCA, SWA
from wavefold.model.attention import Attention
from wavefold.model.batch import Batch, Segment
from wavefold.ops import Arithmetic
from wavefold.quant import Weight

SMALL = ModelConfig(
    vocab_size=32, hidden_size=32, num_hidden_layers=3, num_attention_heads=1, head_dim=16, qk_rope_head_dim=8,
    q_lora_rank=16, o_groups=1, o_lora_rank=16, compress_ratios=(SWA, CSA, HCA), index_n_heads=2, index_head_dim=16,
    index_topk=1000, n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, num_hash_layers=0,
    routed_scaling_factor=1.0, num_nextn_predict_layers=0,
)  # fmt: skip
LAYERS = {SWA: 0, CSA: 1, HCA: 2}
TABLES = {"base10000": False, "yarn160000": True}
ARITHMETICS = pytest.mark.parametrize("arithmetic", [EXACT, RELEASED], ids=["exact", "released"])


# -- GEMMs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("form", ["fp8", "fp4"])
def test_gemm(form: str, case: int) -> None:
    """The input is given as codes: decoded, it must survive being quantized again."""
    codes, code_scales, weight, scale, y = (
        op_vectors()[f"{form}_gemm.{case}.{name}"] for name in ("a", "a_scales", "b", "b_scales", "y")
    )
    x = quant.dequantize_rows(codes.view(torch.float8_e4m3fn), code_scales, 128)
    assert torch.equal(quant.fp8_sim(x, 128), x)
    weight = weight.view(torch.float8_e4m3fn if form == "fp8" else torch.int8)
    ours = ops.linear(x, Weight.of(weight, scale.view(torch.float8_e8m0fnu)), RELEASED)
    assert_single_steps(f"{form}_gemm.{case}", ours, y, 0.01)


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(2))
def test_sparse_attention(case: int) -> None:
    """Keys by number, 64 at a time; -1 is no key, and one query has a whole block of nothing."""
    q, kv, index, sink, o = (op_vectors()[f"sparse_attn.{case}.{name}"] for name in ("q", "kv", "idx", "sink", "o"))
    softmax = ops.RunningSoftmax(q, RELEASED)
    for piece in index.long().split(ops.RELEASED_PIECE, 1):
        softmax.add(kv[piece.clamp(min=0)], piece >= 0)
    assert_single_steps(f"sparse_attn.{case}", softmax.finish(sink), o, 0.001)


def test_kv_sim() -> None:
    """The rotated dims stay; the others are FP8 in blocks of 64, each with its own scale."""
    x, y = op_vectors()["act_quant.x"], op_vectors()["act_quant_inplace64.y"]
    assert torch.equal(ops.kv_sim(x, 0, RELEASED), y)
    assert torch.equal(ops.kv_sim(x, 64, RELEASED), torch.cat((y[:, :-64], x[:, -64:]), 1))
    # The recorded rows come out the same for any block size. Powers of two by block do not.
    x = torch.randn(32, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    factor = torch.pow(2.0, -2 * (torch.arange(512) // 64).clamp(max=6)).bfloat16()
    assert torch.equal(ops.kv_sim(x * factor, 64, RELEASED), ops.kv_sim(x, 64, RELEASED) * factor)


# -- hyper-connections -------------------------------------------------------------------------------------------------


def test_sinkhorn() -> None:
    names = ("mixes", "base", "scale", "pre", "post", "comb")
    mixes, base, scale, *expected = (op_vectors()[f"sinkhorn.{name}"] for name in names)
    split = ops.hc_split(mixes, base, scale, 4, 20, 1e-6, RELEASED)
    for name, ours, theirs in zip(names[3:], split, expected, strict=True):
        error = (ours - theirs).abs().max().item()
        print(f"sinkhorn.{name:23} largest error {error:.1e}   equal {(ours == theirs).double().mean():.2%}")
        assert error <= 1e-6, (name, error)


# -- positions ---------------------------------------------------------------------------------------------------------


def rope_of(table: str) -> tuple[Tensor, Tensor]:
    frequencies = ops.rope_frequencies(ModelConfig.preset("flash"), TABLES[table])
    return ops.rope_table(op_vectors()["rope.positions"].long(), frequencies)


@pytest.mark.parametrize("table", TABLES)
def test_rope_table(table: str) -> None:
    """Angles to the last bit; the cosine of an equal angle is one float32 step away at most."""
    for name, ours in zip(("cos", "sin"), rope_of(table), strict=True):
        theirs = op_vectors()[f"rope.{table}.{name}"]
        error = (ours - theirs).abs().max().item()
        print(f"rope.{table}.{name:18} largest error {error:.1e}   equal {(ours == theirs).double().mean():.2%}")
        assert error <= 2.0**-23, (name, error)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("table", TABLES)
def test_rotate(table: str, inverse: bool) -> None:
    x, y = op_vectors()[f"rope.{table}.x"], op_vectors()[f"rope.{table}.y{'_inverse' if inverse else ''}"]
    assert_single_steps(f"rope.{table}", ops.rotate(x, rope_of(table), RELEASED, inverse), y, 0.01)


def test_rms_norm() -> None:
    x, weight, y = (op_vectors()[f"rmsnorm.{name}"] for name in ("x", "weight", "y"))
    assert_single_steps("rmsnorm", ops.rms_norm(x, weight, 1e-6, RELEASED), y, 0.01)


# -- visibility --------------------------------------------------------------------------------------------------------

ENTRIES = 10_000
"""Entry i is told from a window token by its number ENTRIES + i."""


class Numbered(View):
    """A past in which every row is its own number."""

    def __init__(self, start: int, length: int):
        self.start, self.length = start, length

    def window(self, layer: int, kv: Tensor) -> Tensor:
        return torch.arange(max(0, self.start - 127), self.end, dtype=torch.float32)[:, None]

    def tail(self, kind: str, layer: int, rows: Tensor, first: int) -> Tensor:
        raise NotImplementedError

    def append(self, kind: str, layer: int, rows: Tensor, first: int) -> None:
        raise NotImplementedError

    def entries(self, kind: str, layer: int, first: int, end: int) -> Tensor:
        assert end <= self.end // (HCA if kind == "hca" else CSA), f"{kind} entry {end - 1} does not exist yet"
        return self.gather(kind, layer, torch.arange(first, end))

    def gather(self, kind: str, layer: int, index: Tensor) -> Tensor:
        return index[..., None].float() + (0 if kind == "index" else ENTRIES)


def keys_seen(ratio: int, start: int, length: int, arithmetic: ops.Arithmetic) -> list[list[int]]:
    """The numbers of the keys that attention gives to each query's softmax, in order; -1 for a masked one."""
    seen: list[list[int]] = [[] for _ in range(length)]
    queries = itertools.count()

    class Softmax:
        def __init__(self, q: Tensor, arithmetic: ops.Arithmetic):
            self.q, self.rows = q, [seen[next(queries)] for _ in q]

        def add(self, keys: Tensor, visible: Tensor | None) -> None:
            numbers = keys[..., 0].expand(len(self.q), -1).long()
            numbers = numbers if visible is None else numbers.masked_fill(~visible, -1)
            for row, new in zip(self.rows, numbers.tolist(), strict=True):
                row += new

        def finish(self, sink: Tensor) -> Tensor:
            return self.q

    view = Numbered(start, length)
    attention = Attention(SMALL, SMALL.layers[LAYERS[ratio]])
    index = (torch.ones(length, 1, 1), torch.ones(length, 1)) if ratio == CSA else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "RunningSoftmax", Softmax)
        window = view.window(0, torch.empty(length))
        attention.attend(torch.zeros(length, 1, 1), window, index, Segment(slice(0, length), view), arithmetic)
    return seen


def split(row: list[int]) -> tuple[list[int], list[int]]:
    """Window tokens and entries among a query's keys, ascending."""
    keys = sorted(number for number in row if number >= 0)
    assert len(set(keys)) == len(keys), "a key is seen twice"
    return [k for k in keys if k < ENTRIES], [k - ENTRIES for k in keys if k >= ENTRIES]


@ARITHMETICS
@pytest.mark.parametrize("position", [1, 5, 100, 126, 127, 128, 300])
def test_window_of_a_decode_step(position: int, arithmetic: ops.Arithmetic) -> None:
    """The official table names rows of a ring of 128, oldest first; ours are positions."""
    table = op_vectors()[f"window_index.decode{position}"].tolist()
    (seen,) = keys_seen(SWA, position, 1, arithmetic)
    if arithmetic.released:  # the order and the empty slots count: 64 slots are rounded together
        assert [token % 128 if token >= 0 else -1 for token in seen] == table
    assert sorted(token % 128 for token in seen if token >= 0) == sorted(row for row in table if row >= 0)
    assert split(seen)[0] == list(range(max(0, position - 127), position + 1))


@ARITHMETICS
def test_window_of_a_prefill(arithmetic: ops.Arithmetic) -> None:
    tables = op_vectors()["window_index.prefill6"].tolist()
    for seen, table in zip(keys_seen(SWA, 0, 6, arithmetic), tables, strict=True):
        assert split(seen)[0] == [token for token in table if token >= 0]
        if arithmetic.released:
            assert seen[:6] == table


@ARITHMETICS
@pytest.mark.parametrize("start", [0, 1, 126, 127, 128, 200, 255])
def test_entries_of_an_hca_layer(start: int, arithmetic: ops.Arithmetic) -> None:
    table = op_vectors()["compress_index.prefill300.ratio128"].tolist()
    for position, seen in enumerate(keys_seen(HCA, start, 300 - start, arithmetic), start):
        assert split(seen)[1] == [entry for entry in table[position] if entry >= 0], position


# -- the specification's minimal vectors -------------------------------------------------------------------------------


@ARITHMETICS
@pytest.mark.parametrize(
    ("ratio", "position", "count"), [(4, 2, 0), (4, 3, 1), (4, 6, 1), (4, 7, 2), (128, 126, 0), (128, 127, 1)]
)
def test_number_of_visible_entries(ratio: int, position: int, count: int, arithmetic: ops.Arithmetic) -> None:
    for start in (0, position):  # in the middle of a run of tokens, and as a decode step
        seen = keys_seen(ratio, start, position + 3 - start, arithmetic)[position - start]
        assert split(seen)[1] == list(range(count))
    (alone,) = keys_seen(ratio, position, 1, arithmetic)
    assert split(alone)[1] == list(range(count))


def entries_of(ratio: int, h: Tensor, rotated: bool) -> Tensor:
    """The entries of a random layer's compressor for hidden states h, in exact arithmetic."""
    model = random_model(SMALL, 0, Arithmetic("exact"))
    layer = LAYERS[ratio]
    compressor, view = model.layers[layer].attn.compressor, FreshView(len(h))
    batch = Batch.of(SMALL, torch.zeros(len(h), dtype=torch.int64), [view])
    if not rotated:
        batch.frequencies[True].zero_()
    compressor.extend(compressor.project(h, batch, EXACT), Segment(slice(0, len(h)), view), batch, EXACT)
    return view.entries(*compressor.rows, 0, len(h) // ratio)


@pytest.mark.parametrize(("ratio", "length"), [(CSA, 19), (HCA, 300)])
def test_tokens_and_position_of_an_entry(ratio: int, length: int) -> None:
    """A CSA entry reads its block and the one before, an HCA entry its block; it stands at its block's first token."""
    h = torch.randn(length, SMALL.hidden_size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    raw, entries = entries_of(ratio, h, rotated=False), entries_of(ratio, h, rotated=True)
    for i, entry in enumerate(raw):
        (gradient,) = torch.autograd.grad(entry.square().sum() + entry.sum(), h, retain_graph=True)
        first = max(0, i - 1) * ratio if ratio == CSA else i * ratio
        assert gradient.abs().sum(-1).nonzero().flatten().tolist() == list(range(first, (i + 1) * ratio))

    split_at = SMALL.head_dim - SMALL.qk_rope_head_dim
    turned = torch.view_as_complex(raw[:, split_at:].detach().double().unflatten(-1, (-1, 2)))
    angles = torch.arange(len(raw))[:, None] * ratio * ops.rope_frequencies(SMALL, True).double()
    expected = torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(1)
    torch.testing.assert_close(entries[:, split_at:].detach().double(), expected, rtol=0, atol=1e-4)
    assert torch.equal(entries[:, :split_at], raw[:, :split_at])


def test_comb_is_doubly_stochastic_and_sums_over_its_first_index() -> None:
    logits = torch.randn(64, 4, 4, generator=torch.Generator().manual_seed(0))
    comb = ops.sinkhorn(logits, 20, 1e-6)
    assert (comb.sum(-2) - 1).abs().max() < 1e-5
    assert (comb.sum(-1) - 1).abs().max() < 1e-3  # the last step is the columns'; rows are as far as 20 rounds bring
    streams = torch.eye(4).expand(64, 4, 4)  # stream j is the unit vector j
    for arithmetic in (EXACT, RELEASED):
        mixed = ops.hc_expand(torch.zeros(64, 4), streams, torch.zeros(64, 4), comb, arithmetic)
        torch.testing.assert_close(mixed, comb.transpose(1, 2))


def test_yarn_leaves_fast_pairs_and_slows_the_others() -> None:
    config = ModelConfig.preset("flash")
    plain = 1.0 / config.compress_rope_theta ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    ratio = ops.rope_frequencies(config, True).double() / plain
    torch.testing.assert_close(ratio[:16], torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(ratio[25:], torch.full((7,), 1 / 16, dtype=torch.float64))
    assert (ratio[16:25].diff() < 0).all() and 1 / 16 < ratio[24] < ratio[16] < 1


def test_low_nibble_is_the_even_column() -> None:
    weight, scale = torch.tensor([[0x21]], dtype=torch.int8), torch.tensor([[127]], dtype=torch.uint8)
    columns = ops.linear(torch.eye(2), Weight.of(weight, scale.view(torch.float8_e8m0fnu)), EXACT)
    assert columns.flatten().tolist() == [0.5, 1.0]
