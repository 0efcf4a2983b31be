"""Each layer alone: the kernels against plain torch from the same streams, and the cached rows against a formula.

streams --references--> streams after attention, and what the experts read --> after the layer --> the next layer
   |                         |---------------------the kernels' experts---> compared
   |----the kernels' attention---> compared; their window rows are read out of the cache
   '----kv_of_hidden--> the same rows once more, by the lines below alone

The kernels' experts get what the references' got: they pass single roundings of attention on as ten times as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wavefold import ops
from wavefold.cache import FreshView, PagedView, Pool, Sequence
from wavefold.doctor.finding import OF_THE_MACHINE, Finding, failed, passed, skipped
from wavefold.doctor.patient import Patient
from wavefold.model import Transformer
from wavefold.model.batch import Batch
from wavefold.model.block import Block
from wavefold.model.cpu_experts import ExpertsCall
from wavefold.model.cpu_layers import CpuLayer, CpuLayers, spans_of
from wavefold.ops import native

TOKENS, TOKENS_OF_LARGE = 144, 24
MOST_ERROR = 0.03
"""RMS of the difference over RMS of what a half adds. Other orders of sums, and near ties of entries, make 0.01."""
NARROW, LAST = 256, 16
MOST_USUAL, MOST_USUAL_OF_NARROW, MOST_USUAL_OF_SHARP = 0.016, 0.01, 0.003
"""The same of the median of the last tokens, in layers without a choice, with FP4 and FP8. A rounding that falls
otherwise in an entry, or in 0.2 % of what attention reads, makes 0.01 (random models of 512 to 4,096 columns: 0.013 at
most; of NARROW ones 0.008). Sharp are layers of a window alone in narrow models: 0 as a rule."""
LEAST_SAME = 0.9
"""The share of tokens that both send to the same experts. The others are left out: one of 144 alone makes 0.09."""
DRAWS = 3
"""A rounding that falls otherwise in an entry reaches all tokens after it: what is seen has to last in other orders."""
LEAST_EQUAL = 0.9
"""The share of cached values that equal the formula's. Sums in another order move single roundings."""


@torch.no_grad()
def layers(patient: Patient) -> Iterator[Finding]:
    model = patient.model
    assert model is not None
    tokens = _different_tokens(model, TOKENS_OF_LARGE if patient.is_large else TOKENS)
    blocks: list[Block] = list(model.layers)  # type: ignore[arg-type]
    looked: list[Looked] = []
    with (model.runtime or ops.current()).active(), Halves.open(model, len(tokens)) as halves:
        with ops.using(backend="reference"):
            streams = model.embed(tokens, model.arithmetic)[:, None].expand(-1, model.num_streams, -1).contiguous()
        for block in blocks:
            if looked and patient.time_left < 0:
                break
            one, streams = halves.look(block, streams, tokens)
            looked.append(one)
    for number, one in enumerate(looked):
        yield from one.failures(f"layers.{number}")
    if halves.compiled is None:
        yield skipped("kernels", "do not run this model's layers: plain torch computes", "see docs/kernels.md")
    if not any(list(one.failures("")) for one in looked):
        error, equal = max(one.error for one in looked), min(one.equal for one in looked)
        yield passed(f"{len(looked)} layers", f"off by at most {error:.2%} of what a layer adds; {equal:.1%} of the "
                     "cached KV equal the formula's")  # fmt: skip
    if len(looked) < len(blocks):
        yield skipped(f"layers.{len(looked)} and later", "there was no time for them", "give more --seconds")


class Looked(NamedTuple):
    """`error`, `usual`: of the kernels in a layer; `equal`: the share of cached values that are right.

    `most_usual`: the limit of `usual`.
    """

    error: float
    usual: float
    most_usual: float
    equal: float

    def least(self, other: Looked) -> Looked:
        """Returns what two looks at a layer agree on."""
        error, usual = min(self.error, other.error), min(self.usual, other.usual)
        return Looked(error, usual, self.most_usual, max(self.equal, other.equal))

    def failures(self, part: str) -> Iterator[Finding]:
        if not self.error <= MOST_ERROR:
            yield failed(part, f"the kernels are off by {self.error:.1%} of what the layer adds", OF_THE_MACHINE)
        elif not self.usual <= self.most_usual:
            yield failed(part, f"the kernels are off by {self.usual:.1%} of what the layer adds, for half of the "
                         "tokens and more", OF_THE_MACHINE)  # fmt: skip
        if self.equal < LEAST_EQUAL:
            yield failed(f"{part} KV", f"{1 - self.equal:.1%} of the cached values are not the rounding that the "
                         "arithmetic asks for", OF_THE_MACHINE)  # fmt: skip


@dataclass(frozen=True)
class Halves:
    """Attention and experts of a layer, both ways. `compiled`: the layers on the kernels, None without kernels."""

    model: Transformer
    pool: Pool
    sequence: Sequence
    compiled: list[CpuLayer] | None

    @staticmethod
    @contextmanager
    def open(model: Transformer, num_tokens: int) -> Iterator[Halves]:
        pool = model.new_pool(num_tokens, draft_tokens=num_tokens)
        sequence, cpu = pool.open(), CpuLayers()
        with _new_rows(pool, sequence, num_tokens) as view:
            runs = cpu.of(model, [view])
        yield Halves(model, pool, sequence, cpu.layers if runs else None)
        sequence.close()

    def look(self, block: Block, streams: Tensor, tokens: Tensor) -> tuple[Looked, Tensor]:
        """Runs a layer both ways from `streams`. Returns what was seen, and the streams after it by plain torch.

        A failure is looked at again with the tokens in other orders.
        """
        looked, expected = self._once(block, streams, tokens)
        for seed in range(1, DRAWS):
            if not list(looked.failures("")):
                break
            order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
            looked = looked.least(self._once(block, streams[order], tokens[order])[0])
        return looked, expected

    def _once(self, block: Block, streams: Tensor, tokens: Tensor) -> tuple[Looked, Tensor]:
        model, number = self.model, block.attn.layer
        fresh = Batch.of(model.config, tokens, [FreshView(len(tokens))])
        with ops.using(backend="reference"):
            between, h, expected = _by_references(block, streams, fresh, model)
            _, chosen = block.ffn.gate(h, fresh, model.arithmetic)
            rows, formulas = _cached_by_torch(model, block, streams, fresh)
        cached, error, usual = [rows], 0.0, 0.0
        if self.compiled is not None:
            buffers, layer = native.PassBuffers(tokens, streams.clone(), chosen.shape[1]), self.compiled[number]
            with _new_rows(self.pool, self.sequence, len(tokens)) as view:
                native.block_attention(layer.parameters, 0, spans_of([layer], [view]), buffers, native.ranges([]))
                cached.append(_ring(view, number, len(tokens), model))
            of_attention = _errors(buffers.mixed, between, streams)
            same = (buffers.chosen.sort(1).values == chosen.sort(1).values).all(1)
            if same.float().mean() < LEAST_SAME:
                same = torch.ones_like(same)
            after = _experts_by_kernels(model, layer, buffers, between, h)
            of_experts = _errors(after[same], expected[same], streams[same])
            error, usual = torch.tensor((of_attention, of_experts)).amax(0).tolist()  # keeps NaN
        equal = min(max(_share(found, formula) for formula in formulas) for found in cached)
        return Looked(error, usual, _most_usual(block, model), equal), expected


def _different_tokens(model: Transformer, count: int) -> Tensor:
    """Returns ids [count]: a token that comes again would weigh its own roundings with it."""
    size = model.config.vocab_size
    return torch.randperm(size, generator=torch.Generator().manual_seed(0)).repeat(-(-count // size))[:count]


@contextmanager
def _new_rows(pool: Pool, sequence: Sequence, count: int) -> Iterator[PagedView]:
    """Yields rows for `count` tokens at the start of a sequence; they are taken back."""
    [view] = pool.begin([sequence], [count])
    yield view
    pool.abort([view])


def _experts_by_kernels(
    model: Transformer, layer: CpuLayer, buffers: native.PassBuffers, between: Tensor, h: Tensor
) -> Tensor:  # fmt: skip
    """Returns the streams after a layer, by the kernels from the references' streams and states after attention."""
    buffers.mixed.copy_(between)
    buffers.h.copy_(h)
    number, released = layer.layer, model.arithmetic.released
    call = ExpertsCall(number, layer.shared, layer.limit, released, buffers, native.ranges([]))
    call.run(model.experts.store, lambda: None)
    native.leave(buffers)
    return buffers.streams


def _by_references(
    block: Block, streams: Tensor, batch: Batch, model: Transformer
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the streams after attention, what the experts read [n, hidden], and the streams after the layer."""
    attend, think = block.sublayers(batch, model.experts, model.arithmetic)
    inputs: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        inputs.append(block.ffn_norm(x, model.arithmetic))
        return think(x)

    between = block.connect("hc_attn", streams, attend, model.arithmetic)
    after = block.connect("hc_ffn", between, noted, model.arithmetic)
    return between, inputs[0], after


def _errors(found: Tensor, expected: Tensor, before: Tensor) -> tuple[float, float]:
    """Returns the error over what the layer adds: of all tokens, and the median of the last ones."""
    off, added = (found.float() - expected.float()).square(), (expected.float() - before.float()).square()
    by_token = off.mean((1, 2)) / added.mean((1, 2)).clamp_min(1e-30)
    return float((off.mean() / added.mean()).sqrt()), float(by_token[-LAST:].median().sqrt())


def _most_usual(block: Block, model: Transformer) -> float:
    """Returns the limit of a layer that kernels and references compute alike but for single roundings.

    That is one without a choice of entries, with matrices in FP4 and FP8: products in other formats are rounded at
    other places. Others have none.
    """
    forms = {block.attn.wq_a.stored.format.name, model.experts.store.stored(block.ffn.layer, 0).form}
    if block.attn.spec.indexed or not forms <= {"fp4", "fp8"}:
        return math.inf
    if model.config.hidden_size > NARROW:
        return MOST_USUAL
    return MOST_USUAL_OF_NARROW if block.attn.spec.compressed else MOST_USUAL_OF_SHARP


def _share(found: Tensor, expected: Tensor) -> float:
    return float((found == expected).float().mean())


def _cached_by_torch(model: Transformer, block: Block, streams: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Returns the layer's window rows as the references make and store them, and by `kv_of_hidden`.

    The latter with the weight as it is and, since references and tiles of kernels round it so, in bfloat16.
    """
    fn, base, scale = (block.get_parameter(f"hc_attn_{name}") for name in ("fn", "base", "scale"))
    x, *_ = ops.hc_read(streams, fn, base, scale, block.iters, block.hc_eps, block.norm_eps, model.arithmetic)
    h = block.attn_norm(x, model.arithmetic)
    kv = block.attn.project(h, batch, model.arithmetic)[2]
    record = model.records.kv
    weight: Tensor = block.attn.wkv.stored.decode(torch.float32)
    formulas = [
        kv_of_hidden(h, values, block, batch.positions, model) for values in (weight, weight.bfloat16().float())
    ]
    return record.decode(record.encode(kv)).float(), formulas


def _ring(view: PagedView, layer: int, count: int, model: Transformer) -> Tensor:
    """Returns the window rows that the kernels wrote, oldest first; the ring holds all of them."""
    ring = view.window_rows(layer).storage
    return model.records.kv.decode(ring[:count]).float()


def kv_of_hidden(h: Tensor, weight: Tensor, block: Block, positions: Tensor, model: Transformer) -> Tensor:
    """Returns the window rows [n, c] of normalised states h [n, hidden] by the values of `wkv`, rounding by rounding.

    Plain torch that shares no line with the model: report sections 2.3 and 3.4.
    """
    attn, config, released = block.attn, model.config, model.arithmetic.released
    x = fp8_and_back(h.float(), 128) if attn.wkv.stored.format.is_quantized and released else h.float()
    y = (x @ weight.T).bfloat16().float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + config.rms_norm_eps)
    y = (y * attn.kv_norm.weight.float()).bfloat16().float()
    rope = config.qk_rope_head_dim
    angles = positions.float()[:, None] * ops.rope_frequencies(config, attn.spec.compressed)
    plain, turned = y[:, :-rope], torch.view_as_complex(y[:, -rope:].reshape(len(y), -1, 2).contiguous())
    turned = torch.view_as_real(turned * torch.polar(torch.ones_like(angles), angles)).flatten(1).bfloat16().float()
    return torch.cat((fp8_and_back(plain, 64) if released and plain.shape[1] else plain, turned), 1)


def fp8_and_back(x: Tensor, block: int) -> Tensor:
    """Returns x [n, columns] through e4m3, with a power of two for each row and `block` columns, as bfloat16 values."""
    parts = []
    for piece in x.split(block, -1):
        scale = torch.exp2(torch.ceil(torch.log2(piece.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448)))
        parts.append((piece / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(parts, -1).bfloat16().float()
